"""`sweep submit`: what is ready is submitted, once, whatever happens in between.

xpk is the real one for dry runs. Submitting for real needs a cluster, so a program in its place notes the names. What
becomes of the workloads is in `test_submitted_sweep.py`.
"""

import hashlib
import json
import os
from pathlib import Path
import signal
import subprocess
import sys

import pytest
import yaml

from maxtext_sparse.runs.files import folder_lock
from maxtext_sparse.sweeps.manifest import Manifest, Run
from tests.cluster.conftest import call, flags
from tests.cluster.stand_in import Cluster, KILL_CALLER

RUNS = [("trunk-a", None), ("alone", None), ("a-s60", "trunk-a"), ("a-s80", "trunk-a")]


class Sweep:
  """A sweep's folder with one trunk, two branches and an independent run, and the cluster that it is submitted to."""

  def __init__(self, folder, xpk_path):
    self.folder, self.cluster = folder / "sweep", Cluster(folder / "cluster", xpk_path)
    (self.folder / "runs").mkdir(parents=True)
    self.write({"steps": 40})

  def write(self, keys):
    """Configs for a bucket; the runs' folders are local ones, in place of the bucket."""
    runs = []
    for name, trunk in RUNS:
      config = yaml.safe_dump({"run_name": name, "base_output_directory": "gs://my-bucket/sweep", **keys})
      (self.folder / "runs" / f"{name}.yml").write_text(config, encoding="utf-8")
      kind = "trunk" if name.startswith("trunk") else "run"
      digest = hashlib.sha256(config.encode()).hexdigest()
      runs.append(Run(name, kind, f"runs/{name}.yml", 20 if kind == "trunk" else 40, trunk, trunk and 9, digest))
    manifest = Manifest(str(self.folder), "study", "out", tuple(runs))
    (self.folder / "manifest.json").write_text(manifest.as_text(), encoding="utf-8")

  def submit(self, *words, **changes):
    """(exit status, run -> state, stderr)."""
    options = (*flags(**changes), "--json", *words)
    status, out, error = call("sweep", "submit", self.folder, *options, XPK=str(self.cluster.xpk))
    return status, {row["run"]: row["state"] for row in json.loads(out)["runs"]} if out else None, error

  @property
  def submitted(self):
    return self.cluster.accepted

  @property
  def state(self):
    return json.loads((self.folder / "submitted.json").read_text(encoding="utf-8"))["workloads"]

  def finish(self, run, *steps):
    """Leaves what a finished run leaves: checkpoints after these steps, and an evaluation after the last one."""
    folder = self.folder / "out" / run
    for step in steps:
      (folder / "checkpoints" / str(step)).mkdir(parents=True)
      (folder / "checkpoints" / str(step) / "state").write_text(f"state after {step}", encoding="utf-8")
    rows = "".join(f'{{"step": {step}, "eval/avg_loss": 2.5}}\n' for step in steps)
    (folder / "metrics.jsonl").write_text(rows, encoding="utf-8")


@pytest.fixture
def sweep(tmp_path, xpk_path):
  return Sweep(tmp_path, xpk_path)


def test_trunks_and_independent_runs_go_first_and_branches_wait(sweep):
  status, states, _ = sweep.submit()
  assert status == 0
  assert states == {"trunk-a": "submitted", "alone": "submitted", "a-s60": "waiting", "a-s80": "waiting"}
  assert sweep.submitted == ["study-trunk-a", "study-alone"]


def test_the_state_leads_from_a_workload_back_to_its_run(sweep):
  sweep.submit()
  assert {name: entry["run"] for name, entry in sweep.state.items()} == {
    "study-trunk-a": "trunk-a",
    "study-alone": "alone",
  }
  assert sweep.state["study-alone"]["cluster"] == "my-cluster"


def test_calling_again_submits_nothing_twice(sweep):
  sweep.submit()
  status, states, _ = sweep.submit()
  assert status == 0 and states["trunk-a"] == states["alone"] == "already submitted"
  assert sweep.submitted == ["study-trunk-a", "study-alone"]


def test_branches_follow_from_the_trunks_checkpoint_once_it_is_finished(sweep):
  sweep.submit()
  sweep.finish("trunk-a", 9, 19)
  _, states, _ = sweep.submit()
  assert states == {"trunk-a": "finished", "alone": "already submitted", "a-s60": "submitted", "a-s80": "submitted"}
  assert sweep.submitted[2:] == ["study-a-s60", "study-a-s80"]
  copied = sweep.folder / "out" / "a-s60" / "checkpoints"
  assert [entry.name for entry in copied.iterdir()] == ["9"]
  assert (copied / "9" / "state").read_text(encoding="utf-8") == "state after 9"


def test_only_selects_runs(sweep):
  _, states, _ = sweep.submit("--only", "al*")
  assert states == {"alone": "submitted"}
  status, _, error = sweep.submit("--only", "nothing*")
  assert status == 2 and "--only=nothing*: matches none of the 4 runs" in error


def test_a_submission_that_failed_is_in_doubt_and_nothing_is_submitted_until_told(sweep):
  sweep.cluster.behave(before="exit 3")
  status, _, error = sweep.submit()
  assert status == 1 and "exit status 3" in error
  assert sweep.state["study-trunk-a"]["status"] == "submitting"
  sweep.cluster.behave()
  status, _, error = sweep.submit()
  assert status == 2 and error.count("\n") == 1 and "--resubmit trunk-a" in error
  assert sweep.submitted == []
  assert sweep.submit("--resubmit", "trunk-a")[1]["trunk-a"] == "submitted"


def test_killed_after_a_submission_that_worked_it_is_not_submitted_again(sweep):
  sweep.cluster.behave(after=KILL_CALLER)
  command = [sys.executable, "-m", "maxtext_sparse", "sweep", "submit", str(sweep.folder), *flags()]
  killed = subprocess.run(command, env=os.environ | {"XPK": str(sweep.cluster.xpk)}, capture_output=True, check=False)
  assert killed.returncode == -signal.SIGKILL
  sweep.cluster.behave()
  assert sweep.submit()[0] == 2
  assert sweep.submit("--resubmit", "trunk-a")[1]["trunk-a"] == "submitted"
  assert sweep.submitted == ["study-trunk-a", "study-alone"]
  assert sweep.state["study-trunk-a"]["status"] == "submitted"


def test_a_run_that_has_finished_is_in_doubt_no_more(sweep):
  sweep.cluster.behave(after="exit 3")
  assert sweep.submit("--only", "alone")[0] == 1
  sweep.finish("alone", 39)
  assert sweep.submit("--only", "alone") == (0, {"alone": "finished"}, "")
  assert sweep.state["study-alone"]["status"] == "submitted"


def test_a_workload_with_an_earlier_config_is_not_taken_for_a_run_in_doubt(sweep):
  sweep.cluster.behave(after="exit 3")
  assert sweep.submit("--only", "alone")[0] == 1
  sweep.cluster.behave()
  sweep.write({"steps": 50})
  status, _, error = sweep.submit("--only", "alone")
  assert status == 2 and "its config has changed since it was submitted; delete the workload" in error
  again = ("--only", "alone", "--resubmit", "alone")
  status, _, error = sweep.submit(*again)
  assert status == 2 and "study-alone: the cluster has a workload of that name" in error
  sweep.cluster.delete("study-alone")
  assert sweep.submit(*again)[1] == {"alone": "submitted"}


def test_a_foreign_workload_of_that_name_is_not_touched(sweep):
  sweep.cluster.accept("study-alone")
  status, _, error = sweep.submit("--only", "alone")
  assert status == 2 and "study-alone: the cluster has a workload of that name" in error
  assert sweep.submitted == [] and sweep.state == {}


@pytest.mark.parametrize("name", ["alone", "study-alone"])
def test_a_failed_run_is_submitted_again_by_name(sweep, name):
  sweep.submit("--only", "alone")
  sweep.cluster.delete("study-alone")
  assert sweep.submit("--only", "alone", "--resubmit", name)[1] == {"alone": "submitted"}
  assert sweep.submitted == ["study-alone", "study-alone"]


def test_an_unknown_run_to_resubmit_is_refused_with_the_nearest(sweep):
  status, _, error = sweep.submit("--resubmit", "alon")
  assert status == 2 and "did you mean alone?" in error


def test_a_run_that_changed_after_its_submission_is_refused(sweep):
  sweep.submit()
  sweep.write({"steps": 50})
  status, _, error = sweep.submit()
  assert status == 2 and "its config has changed since it was submitted" in error


def test_a_dry_run_shows_the_jobsets_and_changes_nothing(sweep):
  before = sorted(sweep.folder.rglob("*"))
  status, out, _ = call("sweep", "submit", sweep.folder, *flags(), "--dry-run", XPK=str(sweep.cluster.xpk))
  documents = [document for document in yaml.safe_load_all(out) if document]
  assert status == 0 and [d["metadata"]["name"] for d in documents] == ["study-trunk-a", "study-alone"]
  assert "# a-s60: waiting for trunk-a, workload study-a-s60" in out
  assert sorted(sweep.folder.rglob("*")) == before and sweep.submitted == []


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_a_local_output_directory_is_refused_with_and_without_a_dry_run(sweep, words):
  sweep.write({"base_output_directory": "out"})
  status, _, error = sweep.submit(*words)
  assert status == 2 and error.count("\n") == 1 and "trunk-a: base_output_directory=out: " in error and "gs://" in error
  assert sweep.submitted == []


def test_two_submissions_at_a_time_are_refused(sweep):
  with folder_lock(str(sweep.folder), "busy"):
    status, _, error = sweep.submit()
  assert status == 2 and "another sweep submit is running" in error and sweep.submitted == []


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2, "workloads": {}}'])
def test_a_damaged_state_is_never_taken_for_an_empty_one(sweep, content):
  (sweep.folder / "submitted.json").write_text(content, encoding="utf-8")
  status, _, error = sweep.submit()
  assert status == 2 and "submitted.json" in error and sweep.submitted == []


def test_bad_settings_and_folders_are_refused_in_one_line(sweep, tmp_path):
  status, _, error = sweep.submit(tpu_type="v5e-8")
  assert status == 2 and "v5litepod-8" in error and error.count("\n") == 1
  status, _, error = call("sweep", "submit", tmp_path, *flags(), XPK=str(sweep.cluster.xpk))
  assert status == 2 and error.count("\n") == 1
  status, _, error = call("sweep", "submit", tmp_path / "missing", *flags(), XPK=str(sweep.cluster.xpk))
  assert status == 2 and error.count("\n") == 1
  assert not Path(tmp_path, "submitted.json").exists()
