"""How far a run is, from what it left behind: local folders and buckets alike."""

from collections.abc import Mapping
import dataclasses
import json
import os
from typing import Any

from maxtext_sparse.runs.files import replace_json
from maxtext_sparse.runs.metrics import eval_rows, last_of, latest_rows, read_uploaded_rows, Row, train_rows
from maxtext_sparse.sweeps.manifest import Manifest, Run


@dataclasses.dataclass(frozen=True)
class Progress:
  """A run's latest figures.

  Attributes:
    state: `waiting`, `running`, `stopped`, `failed` or `done`.
    num_done: finished steps, those of its trunk included.
    loss: the final eval loss of a run that is done, else the latest training loss; None before the first step.
    density: share of the prunable weights that is left.
    reason: why it failed, or what it waits for.
  """

  state: str
  num_done: int = 0
  loss: float | None = None
  density: float | None = None
  reason: str = ""


def is_local(path: str) -> bool:
  return "://" not in path


def checkpoint_steps(manifest: Manifest, run: Run) -> list[int]:
  """Steps of a run's complete checkpoints, in order; N holds the state after step N."""
  folder = _path(manifest.run_directory(run)) / "checkpoints"
  try:
    found = [entry for entry in folder.iterdir() if entry.name.isdigit()]
  except (FileNotFoundError, NotADirectoryError):
    return []
  # A local checkpoint gets its name when it is complete, one in a bucket a file beside its own.
  is_complete = lambda entry: is_local(str(folder)) or (entry / "commit_success.txt").exists()
  return sorted(int(entry.name) for entry in found if is_complete(entry))


def latest(manifest: Manifest, run: Run) -> tuple[Row, Row]:
  """The last train row and the last eval row of a run's metrics, empty where there is none."""
  directory = manifest.run_directory(run)
  if is_local(directory):
    return latest_rows(metrics_file(manifest, run))
  rows = read_uploaded_rows(directory)
  return last_of(train_rows(rows)), last_of(eval_rows(rows))


def metrics_file(manifest: Manifest, run: Run) -> str:
  """A local run's metrics."""
  return os.path.join(manifest.run_directory(run), "metrics.jsonl")


def has_begun(manifest: Manifest, run: Run) -> bool:
  """Whether another config would meet what this one left behind."""
  return bool(checkpoint_steps(manifest, run))


def has_final_eval(manifest: Manifest, run: Run) -> bool:
  _, evaluated = latest(manifest, run)
  return evaluated.get("step") == run.steps - 1


def is_finished(manifest: Manifest, run: Run) -> bool:
  """Whether a run's last checkpoint is there, and the eval that its loss comes from; a trunk needs none."""
  if run.steps - 1 not in checkpoint_steps(manifest, run):
    return False
  return run.kind == "trunk" or has_final_eval(manifest, run)


def progress(manifest: Manifest, run: Run, notes: Mapping[str, Mapping[str, str]], is_active: bool) -> Progress:
  """Where a run stands.

  Args:
    manifest: its sweep.
    run: the run.
    notes: what `sweep run` wrote down: name -> `state` and `reason`.
    is_active: whether a `sweep run` is at work in the folder now.
  """
  train, evaluated = latest(manifest, run)
  num_done = int(train["step"]) + 1 if train else 0
  loss, density = train.get("learning/loss"), train.get("pruning/density", 1.0 if train else None)
  if is_finished(manifest, run):
    return Progress("done", run.steps, evaluated.get("eval/avg_loss", loss), density)
  note = notes.get(run.name, {})
  state, reason = note.get("state", ""), note.get("reason", "")
  if state == "running" and is_active:
    return Progress("running", num_done, loss, density)
  if state == "failed":
    return Progress("failed", num_done, loss, density, reason)
  is_stopped = num_done > 0 or has_begun(manifest, run)
  return Progress("stopped" if is_stopped else "waiting", num_done, loss, density, reason)


def read_notes(directory: str) -> dict[str, dict[str, str]]:
  """What `sweep run` last wrote down about each run."""
  try:
    with open(_notes_file(directory), encoding="utf-8") as file:
      return json.load(file)
  except (OSError, ValueError):
    return {}


def write_notes(directory: str, notes: Mapping[str, Mapping[str, str]]) -> None:
  replace_json(_notes_file(directory), notes)


def _notes_file(directory: str) -> str:
  return os.path.join(directory, "state.json")


def _path(path: str) -> Any:
  from etils import epath  # comes with MaxText

  return epath.Path(path)
