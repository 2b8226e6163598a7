"""Density of each matrix of a checkpoint, by layer, from the records that a run writes beside its checkpoints."""

from collections.abc import Sequence
import pathlib
from typing import Any

from matplotlib.figure import Figure

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plots.cells import draw_cells
from maxtext_sparse.plots.inspect import density_grid
from maxtext_sparse.runs.event_files import read_event_file, step_of_name


def draw_density(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """A cell for each matrix, with a column for each layer. Matrices outside the layers are in the first column."""
  del laws
  run, event = _last_event(inputs[0])
  figure = draw_cells(*density_grid([{"name": name, "density": left} for name, left in event["matrices"].items()]))
  figure.suptitle(f"{run}, step {event['step']}\n{100 * event['density']:.2f} % of the prunable weights left", fontsize=9)
  thinnest = min(event["matrices"], key=event["matrices"].__getitem__)
  return figure, {
    "step": event["step"],
    "density": event["density"],
    "min": event["matrices"][thinnest],
    "thinnest": thinnest,
  }


def _last_event(path: str) -> tuple[str, dict[str, Any]]:
  """The name of a run, and the record of its last event at or before a checkpoint.

  Args:
    path: an event file, a run folder, or one of its checkpoints (`run/checkpoints/1200`).

  Raises:
    ConfigError: there is no readable event record.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    file = _last_file(path)
  elif file.suffix != ".json":
    raise ConfigError(f"{path}: holds no densities of matrices, give the folder of a run or one of its checkpoints")
  event = read_event_file(file)
  if not event["matrices"]:
    raise ConfigError(f"{file}: names no matrix, give the record of another event")
  return file.absolute().parent.parent.name, event


def _last_file(path: str) -> pathlib.Path:
  given = pathlib.Path(path)
  last_step = int(given.name) if given.name.isdecimal() and given.parent.name == "checkpoints" else None
  run = given if last_step is None else given.parent.parent
  files = {step_of_name(file): file for file in (run / "sparsity").glob("event_*")}
  steps = [step for step in files if last_step is None or step <= last_step]
  if not steps:
    raise ConfigError(f"{path}: holds no pruning event (sparsity/event_*.json), give a run folder or checkpoint")
  return files[max(steps)]
