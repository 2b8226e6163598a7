"""Density of each matrix of a checkpoint, by layer, from the records that a run writes beside its checkpoints."""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

from matplotlib.figure import Figure

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plots.cells import draw_cells
from maxtext_sparse.plots.inspect import density_grid


def draw_density(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """A cell for each matrix, with a column for each layer. Matrices outside the layers are in the first column."""
  del laws
  path, event = _last_event(inputs[0])
  figure = draw_cells(*density_grid([{"name": name, "density": left} for name, left in event["matrices"].items()]))
  title = f"{path.parent.parent.name}, step {event['step']}\n{100 * event['density']:.2f} % of the prunable weights left"
  figure.suptitle(title, fontsize=9)
  thinnest = min(event["matrices"], key=event["matrices"].__getitem__)
  return figure, {
    "step": event["step"],
    "density": event["density"],
    "min": event["matrices"][thinnest],
    "thinnest": thinnest,
  }


def _last_event(path: str) -> tuple[pathlib.Path, dict[str, Any]]:
  """The record of the last event at or before a checkpoint.

  Args:
    path: an event file, a run folder, or one of its checkpoints (`run/checkpoints/1200`).

  Raises:
    ConfigError: there is no readable event record.
  """
  given = pathlib.Path(path)
  if given.is_file():
    files = [given]
  else:
    last_step = int(given.name) if given.name.isdigit() and given.parent.name == "checkpoints" else None
    run = given.parent.parent if last_step is not None else given
    files = [f for f in sorted((run / "sparsity").glob("event_*.json")) if last_step is None or _step(f) <= last_step]
  if not files:
    raise ConfigError(f"{path}: holds no pruning event (sparsity/event_*.json), give a run folder or checkpoint")
  try:
    event = json.loads(files[-1].read_text())
    return files[-1].absolute(), {name: event[name] for name in ("step", "density", "matrices")}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ConfigError(f"{files[-1]}: not a record of a pruning event ({error})") from error


def _step(path: pathlib.Path) -> int:
  return int(path.stem.removeprefix("event_"))
