"""`sweep status` and `sweep collect` of many runs in a bucket: how many requests they send, whatever these take."""

import csv
import json
import math
import subprocess
import sys

import pytest

from tests.faults import bucket
from tests.faults.many_runs import finished_study, loss_of, objects_of, PAGE
from tests.hooks.harness import environment

pytestmark = pytest.mark.slow

NUM_RUNS = 300
# Questions about the bucket itself, which do not depend on the runs.
FEW = 5


@pytest.fixture(scope="module")
def study(tmp_path_factory):
  with finished_study(tmp_path_factory.mktemp("many"), NUM_RUNS, delay=0.0) as study:
    yield study


def requests_of(study, *arguments):
  """What a command prints, and the requests that it sends."""
  _, proxy = study
  before = proxy.num_requests
  done = subprocess.run(
    [sys.executable, "-m", "maxtext_sparse", "sweep", *arguments],
    env=environment() | bucket.variables(proxy.port),
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout, proxy.num_requests - before


def test_status_lists_the_bucket_and_reads_one_file_a_run(study):
  manifest, _ = study
  shown, num_requests = requests_of(study, "status", manifest.directory, "--json")
  entries = {entry["run"]: entry for entry in json.loads(shown)["runs"]}
  assert {entry["state"] for entry in entries.values()} == {"done"}
  assert all(entries[run.name]["loss"] == pytest.approx(loss_of(run)) for run in manifest.runs)
  num_pages = math.ceil(len(objects_of(manifest)) / PAGE)
  assert num_requests <= num_pages + len(manifest.runs) + FEW


def test_collect_reads_three_files_a_run(study, tmp_path):
  manifest, _ = study
  table = tmp_path / "runs.csv"
  _, num_requests = requests_of(study, "collect", manifest.directory, "--out", str(table))
  rows = {row["run"]: row for row in csv.DictReader(table.open())}
  assert len(rows) == NUM_RUNS
  assert all(float(rows[run.name]["loss"]) == pytest.approx(loss_of(run)) for run in manifest.runs if run.kind == "run")
  num_pages = math.ceil(len(objects_of(manifest)) / PAGE)
  assert num_requests <= num_pages + 3 * NUM_RUNS + FEW
