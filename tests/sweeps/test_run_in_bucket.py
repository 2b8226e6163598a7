"""`sweep run` with its runs in a bucket: what it copies there, and when a run is finished. No run really trains here."""

import io

import pytest
from rich.console import Console

from maxtext_sparse.sweeps import run as sweep_run
from maxtext_sparse.sweeps.manifest import read_manifest
from maxtext_sparse.sweeps.run import run_sweep
from maxtext_sparse.sweeps.state import checkpoint_steps
from tests.runs.memory_bucket import memory_bucket
from tests.sweeps.test_bucket import manifest, save, upload

__all__ = ["manifest", "memory_bucket"]


class Pretender:
  """Stands for a run's process: leaves in the bucket what training from the last checkpoint would leave there."""

  started: list[tuple[str, list[int]]] = []
  failing = ""

  def __init__(self, manifest, run, cores):
    del cores
    self.run, self.log_file = run, "log"
    Pretender.started.append((run.name, checkpoint_steps(manifest, run)))
    if run.name != Pretender.failing:
      last = run.steps - 1
      save(manifest, run, last)
      rows = [{"step": float(last), "learning/loss": 4.0}, {"step": float(last), "eval/avg_loss": 2.5}]
      upload(manifest, run, last, last, *rows)

  def poll(self):
    return int(self.run.name == Pretender.failing)

  def end(self):
    """Has ended already."""

  def why_failed(self):
    return "out of data"


@pytest.fixture(autouse=True)
def _pretend(monkeypatch):
  monkeypatch.setattr(sweep_run, "RunProcess", Pretender)
  monkeypatch.setattr(sweep_run, "_POLL_SECONDS", 0.0)
  Pretender.started, Pretender.failing = [], ""


def train(manifest):
  return {
    name: status.state for name, status in run_sweep(manifest.directory, 1, None, Console(file=io.StringIO())).items()
  }


def save_for_branches(manifest):
  """The checkpoints of the trunk that the branches start from, and its metrics up to there."""
  trunk, *branches = manifest.runs
  steps = [branch.branch_step for branch in branches]
  for step in sorted(set(steps)):
    save(manifest, trunk, step)
  upload(manifest, trunk, 0, max(steps), {"step": 0.0, "learning/loss": 6.0})


def test_branches_start_from_the_trunks_checkpoint_and_nothing_is_trained_twice(manifest):
  save_for_branches(manifest)
  trunk, *branches = manifest.runs
  assert set(train(manifest).values()) == {"done"}
  saved = sorted(branch.branch_step for branch in branches)
  assert Pretender.started == [(trunk.name, saved), *((branch.name, [branch.branch_step]) for branch in branches)]
  train(manifest)
  assert len(Pretender.started) == 3


def test_the_branches_of_a_trunk_that_failed_wait(manifest):
  Pretender.failing = manifest.runs[0].name
  assert set(train(manifest).values()) == {"failed"}
  assert [name for name, _ in Pretender.started] == [manifest.runs[0].name]


def test_a_last_checkpoint_without_its_eval_is_trained_again(manifest):
  save_for_branches(manifest)
  run = manifest.runs[2]
  save(manifest, run, 49)
  save(manifest, run, run.steps - 1)
  assert set(train(manifest).values()) == {"done"}
  assert (run.name, [49]) in Pretender.started


def test_the_process_writes_into_the_bucket(manifest):
  from maxtext_sparse.sweeps.training import _arguments

  arguments = _arguments(read_manifest(manifest.directory), manifest.runs[0])
  assert "base_output_directory=gs://bucket/sweep" in arguments
  assert not any(argument.startswith("metrics_file=") for argument in arguments)
