"""A sweep whose runs are in a bucket, trained by `sweep run`: killed twice, it ends like the same sweep on this disk."""

import csv
import json
import os
from pathlib import Path
import subprocess
import sys
import threading

import numpy as np
import pytest
import yaml

from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.runs.metrics import once_per_step, parse_rows, read_rows, train_rows
from maxtext_sparse.sweeps.manifest import read_manifest
from tests.faults import bucket
from tests.faults.bucket import port, Proxy, URL
from tests.hooks.harness import cache_directory, environment
from tests.sweeps.conftest import SHIPPED
from tests.sweeps.test_branch import RELATIVE_LOSS, RELATIVE_WEIGHTS
from tests.sweeps.test_run import children_of, is_alive, wait_until

__all__ = ["port"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # MaxText starts nine times

BRANCHES = ("study-s50", "study-s80")
LAST = 39


def command(port, *arguments):
  return {
    "args": [sys.executable, "-m", "maxtext_sparse", *arguments],
    "env": environment() | bucket.variables(port),
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
  }


def finish(port, *arguments):
  done = subprocess.run(**command(port, *arguments), check=False, timeout=1800)
  assert done.returncode == 0, done.stderr + done.stdout
  return done.stdout


def make_study(port, folder, output):
  """A trunk and two branches of 40 steps, which leave it at steps of their own."""
  spec = yaml.safe_load((SHIPPED / "mini-smoke.yml").read_text())
  spec |= {
    "name": "study",
    "base": str((SHIPPED / spec["base"]).resolve()),
    "output_directory": output,
    "axes": {"sparsity": [0.5, 0.8]},
  }
  spec["set"] |= {"steps": LAST + 1, "log_period": 10}
  folder.mkdir()
  (folder / "study.yml").write_text(yaml.safe_dump(spec))
  finish(port, "sweep", "make", str(folder / "study.yml"), "--out", str(folder / "made"))
  return read_manifest(str(folder / "made"))


@pytest.fixture(scope="module")
def local(port, tmp_path_factory):
  manifest = make_study(port, tmp_path_factory.mktemp("local") / "study", "out")
  finish(port, "sweep", "run", manifest.directory)
  return manifest


@pytest.fixture(scope="module")
def in_bucket(port, tmp_path_factory):
  """The sweep after two kills: while a branch is copied, and while the other is trained."""
  manifest = make_study(port, tmp_path_factory.mktemp("bucket") / "study", f"{URL}/sweep")
  first, second = (f"sweep/{name}" for name in BRANCHES)
  step = manifest.find(BRANCHES[0]).branch_step
  with_copy_held(port, manifest, lambda: bucket.objects(port, f"{first}/checkpoints/{step}/"))
  assert bucket.saved_steps(port, first) == []
  with_slow_bucket(port, manifest, lambda: any("to_step_000028" in n for n in bucket.objects(port, f"{second}/metrics/")))
  states = {entry["run"]: entry for entry in status(port, manifest)}
  assert states[BRANCHES[0]]["state"] == "done" and states[BRANCHES[1]]["state"] == "stopped"
  finish(port, "sweep", "run", manifest.directory)
  return manifest


def with_copy_held(port, manifest, is_due):
  """Trains until a branch's checkpoint is copied, holds the copy of its last file, and kills `sweep run` then."""
  is_over = threading.Event()

  def hold(number, method, path):
    if "rewriteTo" not in path or not path.endswith("commit_success.txt"):
      return ""
    is_over.wait(300)
    return "drop"

  proxy = Proxy(port, fault=hold)
  try:
    kill_when(proxy.port, manifest, is_due)
  finally:
    is_over.set()
    proxy.close()


def with_slow_bucket(port, manifest, is_due):
  """As `kill_when`, with 50 ms for each request, so that the run is not over before it is killed."""
  proxy = Proxy(port, delay=0.05)
  try:
    kill_when(proxy.port, manifest, is_due)
  finally:
    proxy.close()


def kill_when(port, manifest, is_due):
  """`sweep run` until `is_due`; kill -9, after which its children end by themselves."""
  process = subprocess.Popen(**command(port, "sweep", "run", manifest.directory))
  wait_until(is_due, process, seconds=1200)
  children = children_of(process.pid)
  process.kill()
  process.communicate()
  wait_until(lambda: not any(map(is_alive, children)), seconds=60)


def status(port, manifest):
  return json.loads(finish(port, "sweep", "status", manifest.directory, "--json"))["runs"]


def uploaded_rows(port, name):
  """The rows in the bucket, in the order of the files' names, which is that of their steps."""
  files = sorted(bucket.objects(port, f"sweep/{name}/metrics/"), key=lambda file: file.rpartition("_")[2])
  return [row for file in files for row in parse_rows(bucket.content(port, file), file)]


def download(port, prefix, folder):
  """The objects below a prefix as files."""
  for name in bucket.objects(port, f"{prefix}/"):
    path = folder / name.removeprefix(f"{prefix}/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bucket.content(port, name))
  return Checkpoint(str(folder))


def test_the_runs_end_like_local_ones(port, local, in_bucket, tmp_path):
  assert {entry["state"] for entry in status(port, in_bucket)} == {"done"}
  tables = []
  for manifest in (local, in_bucket):
    tables.append(tmp_path / f"{len(tables)}.csv")
    finish(port, "sweep", "collect", manifest.directory, "--out", str(tables[-1]))
  ours, theirs = (list(csv.DictReader(table.open())) for table in tables)
  assert [row["run"] for row in ours] == list(BRANCHES)
  assert ours == theirs


@pytest.mark.parametrize("name", BRANCHES)
def test_no_step_is_lost_or_there_twice(port, local, in_bucket, name):
  run = in_bucket.find(name)
  expected = train_rows(read_rows(os.path.join(local.run_directory(run), "metrics.jsonl")))
  found = train_rows(once_per_step(uploaded_rows(port, name)))
  losses = lambda rows: [(row["step"], row["learning/loss"], row["pruning/nonzero_prunable"]) for row in rows]
  assert losses(found) == losses(expected)
  events = Path(local.run_directory(run)) / "sparsity"
  counts = lambda texts: [(event["step"], event["nonzero_prunable"], event["active_sum"]) for event in texts]
  assert counts(bucket.events(port, f"sweep/{name}")) == counts(
    json.loads(path.read_text()) for path in sorted(events.glob("event_*.json"))
  )


def test_a_branch_ends_as_the_run_trained_alone(port, in_bucket, tmp_path):
  run = in_bucket.find(BRANCHES[1])
  corpus = Path(in_bucket.directory) / "corpus"
  places = {
    "base_output_directory": f"{URL}/alone",
    "jax_cache_dir": cache_directory(),
    "grain_train_files": corpus / "train.parquet",
    "grain_eval_files": corpus / "eval.parquet",
    "tokenizer_path": corpus / "vocabulary.model",
  }
  finish(port, "train", in_bucket.config_path(run), *(f"{key}={value}" for key, value in places.items()))
  branched, alone = (
    download(port, f"{place}/{run.name}/checkpoints/{LAST}", tmp_path / place) for place in ("sweep", "alone")
  )
  ours, theirs = dict(branched.matrices()), dict(alone.matrices())
  assert ours.keys() == theirs.keys()
  for name, matrix in ours.items():
    assert np.abs(matrix - theirs[name]).mean() <= RELATIVE_WEIGHTS * np.abs(theirs[name]).mean(), name
  last = [bucket.events(port, f"{place}/{run.name}")[-1] for place in ("sweep", "alone")]
  assert last[0]["nonzero_prunable"] == last[1]["nonzero_prunable"]
  files = bucket.objects(port, f"alone/{run.name}/metrics/")
  alone_rows = [row for file in files for row in parse_rows(bucket.content(port, file), file)]
  evals = [
    next(row["eval/avg_loss"] for row in rows if row["step"] == LAST and "eval/avg_loss" in row)
    for rows in (uploaded_rows(port, run.name), alone_rows)
  ]
  assert evals[0] == pytest.approx(evals[1], rel=RELATIVE_LOSS)


def test_a_finished_sweep_is_left_alone(port, in_bucket):
  before = bucket.objects(port, "sweep/")
  shown = finish(port, "sweep", "run", in_bucket.directory)
  assert "3 of 3 runs are finished" in shown and "started" not in shown
  assert bucket.objects(port, "sweep/") == before


def test_a_bucket_that_is_gone_is_one_line(port, in_bucket):
  proxy = Proxy(port, fault=lambda number, method, path: "404")
  try:
    for name in ("run", "status", "collect"):
      done = subprocess.run(**command(proxy.port, "sweep", name, in_bucket.directory), check=False, timeout=300)
      assert done.returncode == 2, done.stderr
      (line,) = done.stderr.splitlines()
      assert line.startswith(f"maxtext-sparse: error: {URL}/sweep: cannot be read (")
  finally:
    proxy.close()
