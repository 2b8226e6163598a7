"""How far a run is, from what it left behind: local folders and buckets alike."""

from collections.abc import Mapping
import contextlib
import dataclasses
import json
import os
import re
from typing import Any

from maxtext_sparse.demo.runs import latest_rows
from maxtext_sparse.sweeps.manifest import Manifest, Run

Row = dict[str, Any]


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
  train: Row = {}
  evaluated: Row = {}
  for row in _uploaded_rows(directory):
    if "learning/loss" in row:
      train = row
    elif "eval/avg_loss" in row:
      evaluated = row
  return train, evaluated


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
  path = _notes_file(directory)
  with open(f"{path}.tmp", "w", encoding="utf-8") as file:
    json.dump(notes, file, indent=1)
  os.replace(f"{path}.tmp", path)


def _notes_file(directory: str) -> str:
  return os.path.join(directory, "state.json")


def _uploaded_rows(directory: str) -> list[Row]:
  """All rows that MaxText uploaded, later files last, one that was repeated from the file that ends later."""
  folder = _path(directory) / "metrics"
  files = sorted(folder.glob("metrics_step_*.txt"), key=_last_step) if folder.exists() else []
  rows = []
  for file in files:
    for line in file.read_text().splitlines():
      with contextlib.suppress(ValueError):
        rows.append(json.loads(line))
  return rows


def _last_step(path: Any) -> tuple[int, ...]:
  first, last = re.findall(r"\d+", path.name)[-2:]
  return int(last), int(first)


def _path(path: str) -> Any:
  from etils import epath  # comes with MaxText

  return epath.Path(path)
