"""Density of each matrix of a checkpoint, by layer, from the records that a run writes beside its checkpoints."""

from collections.abc import Sequence
import json
import pathlib
import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError

_LAYER = re.compile(r"\[([\d,]+)\]$|layers?_(\d+)(?=/)")


def draw_density(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """A cell for each matrix, with a column for each layer. Matrices outside the layers are in the first column."""
  del laws
  path, event = _last_event(inputs[0])
  grid = _grid(event["matrices"])
  figure = Figure(figsize=(max(5.5, 0.5 * grid.shape[1] + 3.0), 0.34 * grid.shape[0] + 1.6))
  axis = figure.subplots()
  _draw_cells(axis, grid)
  axis.set_title(
    f"{path.parent.parent.name}, step {event['step']}: {event['density']:.2%} of the prunable weights left", size=9
  )
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


def _grid(matrices: dict[str, float]) -> pd.DataFrame:
  """Densities with a row for each kind of matrix and a column for each layer; column "-" is outside the layers."""
  rows = []
  for name, density in matrices.items():
    match = _LAYER.search(name)
    layer = next((group for group in match.groups() if group), "-") if match else "-"
    kind = _LAYER.sub("", name).removesuffix("/kernel").replace("decoder/", "").replace("layers/", "").strip("/")
    rows.append((kind, layer, density))
  frame = pd.DataFrame(rows, columns=["kind", "layer", "density"])
  grid = frame.pivot(index="kind", columns="layer", values="density")
  order = sorted(grid.columns, key=lambda layer: (layer != "-", [int(part) for part in re.findall(r"\d+", layer)]))
  return grid[order]


def _draw_cells(axis: Axes, grid: pd.DataFrame) -> None:
  percent = 100 * grid.to_numpy()
  most = np.nanmax(percent)
  image = axis.imshow(percent, cmap="Greys", vmin=0, vmax=most, aspect="auto")
  for (row, column), left in np.ndenumerate(percent):
    if np.isfinite(left):
      text = f"{left:.2g}" if left < 99.5 else "100"
      axis.text(column, row, text, ha="center", va="center", size=7, color="white" if left > 0.5 * most else "black")
  axis.set_xticks(range(grid.shape[1]), grid.columns)
  axis.set_yticks(range(grid.shape[0]), grid.index)
  axis.set_xlabel("layer (- : outside the layers)")
  axis.grid(visible=False)
  axis.figure.colorbar(image, ax=axis, label="% of the matrix's weights left", shrink=0.9)
