"""How far each run of a sweep is, from what it left in its folder, which may be in a bucket."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import json
import logging
import os
from typing import Any

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.files import replace_json
from maxtext_sparse.runs.metrics import eval_rows, last_of, latest_rows, read_uploaded_rows, Row, train_rows
from maxtext_sparse.sweeps.manifest import Manifest, Run

_LONGEST_REASON = 200


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


def checkpoint_steps(manifest: Manifest, run: Run) -> list[int]:
  """Steps of a run's complete checkpoints in ascending order. Checkpoint N holds the state after step N."""
  folder = epath_of(manifest.run_directory(run)) / "checkpoints"
  with _readable(str(folder)):
    try:
      found = [entry for entry in folder.iterdir() if entry.name.isdigit()]
    except (FileNotFoundError, NotADirectoryError):
      return []
    if not is_local(str(folder)):
      # A bucket cannot rename folders, so a last file marks a checkpoint as complete. A local one is renamed when it is.
      found = [entry for entry in found if (entry / "commit_success.txt").exists()]
  return sorted(int(entry.name) for entry in found)


@contextlib.contextmanager
def _readable(place: str) -> Iterator[None]:
  """Turns what a bucket's client raises into one line. Its classes of errors are many, and it logs tracebacks itself.

  Raises:
    ConfigError: the place is in a bucket that cannot be read.
  """
  log, before = logging.getLogger("gcsfs"), logging.getLogger("gcsfs").level
  log.setLevel(logging.CRITICAL + 1)
  try:
    yield
  except Exception as error:
    if is_local(place) or isinstance(error, ConfigError):
      raise
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ConfigError(f"{place}: cannot be read ({reason[:_LONGEST_REASON]})") from error
  finally:
    log.setLevel(before)


def latest(manifest: Manifest, run: Run) -> tuple[Row, Row]:
  """The last train row and the last eval row of a run's metrics. Each is empty if there is none."""
  directory = manifest.run_directory(run)
  if is_local(directory):
    return latest_rows(metrics_file(manifest, run))
  with _readable(directory):
    rows = read_uploaded_rows(directory)
  return last_of(train_rows(rows)), last_of(eval_rows(rows))


def metrics_file(manifest: Manifest, run: Run) -> str:
  """Path of a local run's metrics."""
  return os.path.join(manifest.run_directory(run), "metrics.jsonl")


def has_begun(manifest: Manifest, run: Run) -> bool:
  """Whether a run has a checkpoint, from which a changed config would go on."""
  return bool(checkpoint_steps(manifest, run))


def has_final_eval(manifest: Manifest, run: Run) -> bool:
  """Whether a run was evaluated after its last step."""
  _, evaluated = latest(manifest, run)
  return evaluated.get("step") == run.steps - 1


def is_finished(manifest: Manifest, run: Run) -> bool:
  """Whether a run has its last checkpoint and the evaluation after it. A trunk needs no evaluation."""
  if run.steps - 1 not in checkpoint_steps(manifest, run):
    return False
  return run.kind == "trunk" or has_final_eval(manifest, run)


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
  if is_finished(manifest, run):
    return RunStatus("done", run.steps, evaluated.get("eval/avg_loss", loss), density)
  note = notes.get(run.name, {})
  state, reason = note.get("state", ""), note.get("reason", "")
  if state == "running" and is_active:
    return RunStatus("running", num_done, loss, density)
  if state == "failed":
    return RunStatus("failed", num_done, loss, density, reason)
  is_stopped = num_done > 0 or has_begun(manifest, run)
  return RunStatus("stopped" if is_stopped else "waiting", num_done, loss, density, reason)


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
