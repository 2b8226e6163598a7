"""How far each run of a sweep is, from what it left in its folder, which may be in a bucket.

A command that looks at all runs of a sweep begins with `as_of_now`, which lists the bucket once. Without it, each call
lists the folder of the run that it is asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import json
import os
from typing import Any

from maxtext_sparse.runs.files import replace_json
from maxtext_sparse.runs.listing import Listing, reachable, side_by_side
from maxtext_sparse.runs.metrics import latest_rows, latest_uploaded_rows, Row
from maxtext_sparse.sweeps.manifest import Manifest, Run

# The file of a checkpoint in a bucket that is written last.
COMPLETE = "commit_success.txt"


@dataclasses.dataclass(frozen=True)
class RunStatus:
  """Where a run stands.

  Attributes:
    state: `waiting`, `running`, `stopped`, `failed` or `done`.
    num_done: number of finished steps, those of its trunk included.
    loss: the final evaluation loss of a run that is done, otherwise the latest training loss; None before the first step.
    density: share of the prunable weights that is left, None before the first step.
    reason: why the run failed.
  """

  state: str
  num_done: int = 0
  loss: float | None = None
  density: float | None = None
  reason: str = ""

  def to_dict(self) -> dict[str, Any]:
    """All fields, for JSON."""
    return dataclasses.asdict(self)


def is_local(path: str) -> bool:
  """Whether a path is one of this machine and not a URL."""
  return "://" not in path


def as_of_now(manifest: Manifest) -> Manifest:
  """The manifest with all that its runs have in their bucket now. A manifest of local runs is returned as it is.

  Raises:
    ConfigError: the bucket cannot be read.
  """
  if is_local(manifest.output_path):
    return manifest
  with reachable(manifest.output_path):
    return dataclasses.replace(manifest, listing=Listing(manifest.output_path))


def for_each[Item, Found](manifest: Manifest, look: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
  """`look(item)` of every item, many at a time if the runs of the sweep are in a bucket."""
  if is_local(manifest.output_path):
    return [look(item) for item in items]
  with reachable(manifest.output_path):
    return side_by_side(look, items)


def folder_of(manifest: Manifest, run: Run) -> Any:
  """A run's folder to read from: a local path, or the folder of a bucket as it was when it was listed.

  Raises:
    ConfigError: the bucket cannot be read.
  """
  directory = manifest.run_directory(run)
  if is_local(directory):
    return epath_of(directory)
  with reachable(directory):
    return (manifest.listing or Listing(directory)).path(directory)


def checkpoint_steps(manifest: Manifest, run: Run) -> list[int]:
  """Steps of a run's complete checkpoints in ascending order. Checkpoint N holds the state after step N."""
  folder = folder_of(manifest, run) / "checkpoints"
  try:
    found = [entry for entry in folder.iterdir() if entry.name.isdigit()]
  except (FileNotFoundError, NotADirectoryError):
    return []
  if not is_local(str(folder)):
    # A bucket cannot rename folders, so a last file marks a checkpoint as complete. A local one is renamed when it is.
    found = [entry for entry in found if (entry / COMPLETE).exists()]
  return sorted(int(entry.name) for entry in found)


def latest(manifest: Manifest, run: Run) -> tuple[Row, Row]:
  """The last train row and the last eval row of a run's metrics. Each is empty if there is none."""
  directory = manifest.run_directory(run)
  if is_local(directory):
    return latest_rows(metrics_file(manifest, run))
  with reachable(directory):
    return latest_uploaded_rows(folder_of(manifest, run))


def metrics_file(manifest: Manifest, run: Run) -> str:
  """Path of a local run's metrics."""
  return os.path.join(manifest.run_directory(run), "metrics.jsonl")


def has_begun(manifest: Manifest, run: Run) -> bool:
  """Whether a run has a checkpoint, from which a changed config would go on."""
  return bool(checkpoint_steps(manifest, run))


def has_last_checkpoint(manifest: Manifest, run: Run) -> bool:
  """Whether a run has the checkpoint of its last step."""
  return run.steps - 1 in checkpoint_steps(manifest, run)


def has_final_eval(manifest: Manifest, run: Run) -> bool:
  """Whether a run was evaluated after its last step."""
  return is_final(run, latest(manifest, run)[1])


def is_final(run: Run, evaluated: Row) -> bool:
  """Whether this is the row of the evaluation after a run's last step."""
  return evaluated.get("step") == run.steps - 1


def is_finished(manifest: Manifest, run: Run) -> bool:
  """Whether a run has its last checkpoint and the evaluation after it. A trunk needs no evaluation."""
  return has_last_checkpoint(manifest, run) and (run.kind == "trunk" or has_final_eval(manifest, run))


def run_status(manifest: Manifest, run: Run, notes: Mapping[str, Mapping[str, str]], is_active: bool) -> RunStatus:
  """Where a run stands.

  Args:
    manifest: its sweep.
    run: the run.
    notes: what `sweep run` wrote down, from `read_notes`.
    is_active: whether a `sweep run` is at work in the folder now.
  """
  train, evaluated = latest(manifest, run)
  num_done = int(train["step"]) + 1 if train else 0
  # The metrics of a dense run say nothing about density.
  loss, density = train.get("learning/loss"), train.get("pruning/density", 1.0 if train else None)
  if (run.kind == "trunk" or is_final(run, evaluated)) and has_last_checkpoint(manifest, run):
    return RunStatus("done", run.steps, evaluated.get("eval/avg_loss", loss), density)
  note = notes.get(run.name, {})
  state, reason = note.get("state", ""), note.get("reason", "")
  if state == "running" and is_active:
    return RunStatus("running", num_done, loss, density)
  if state == "failed":
    return RunStatus("failed", num_done, loss, density, reason)
  is_stopped = num_done > 0 or has_begun(manifest, run)
  return RunStatus("stopped" if is_stopped else "waiting", num_done, loss, density, reason)


def all_statuses(manifest: Manifest, runs: Sequence[Run], is_active: bool) -> list[tuple[Run, RunStatus]]:
  """Where each of the runs stands now; `is_active` as for `run_status`.

  Raises:
    ConfigError: the bucket cannot be read.
  """
  notes, manifest = read_notes(manifest.directory), as_of_now(manifest)
  return list(zip(runs, for_each(manifest, lambda run: run_status(manifest, run, notes, is_active), runs), strict=True))


def read_notes(directory: str) -> dict[str, dict[str, str]]:
  """What `sweep run` last wrote down: name of a run -> its `state`, and the `reason` if it failed."""
  try:
    with open(_notes_file(directory), encoding="utf-8") as file:
      notes = json.load(file)
  except (OSError, ValueError):
    return {}
  return notes if isinstance(notes, dict) else {}


def write_notes(directory: str, notes: Mapping[str, Mapping[str, str]]) -> None:
  """Replaces what `read_notes` returns."""
  replace_json(_notes_file(directory), notes)


def epath_of(path: str) -> Any:
  """A path of this machine or a URL as an `epath.Path`, which reads and writes both."""
  from etils import epath  # comes with MaxText

  return epath.Path(path)


def _notes_file(directory: str) -> str:
  return os.path.join(directory, "state.json")
