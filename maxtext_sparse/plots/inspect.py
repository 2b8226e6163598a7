"""Figures of one model: density by layer and matrix as a heat map, and the magnitudes of the live weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.inspection.matrix_names import layer_order, split_name
from maxtext_sparse.plots import style
from maxtext_sparse.plots.cells import draw_cells

# Share of the weights left out at either end of the histogram.
_TAIL = 1e-3


def draw_heat_map(matrices: Sequence[Mapping[str, Any]], path: str) -> None:
  """A cell for each layer and kind of matrix with the percentage of weights that is left.

  Args:
    matrices: `name` and `density` of each.
    path: PNG to write.
  """
  with style.in_style():
    style.save_picture(draw_cells(*density_grid(matrices)), path)


def draw_magnitudes(histograms: Mapping[str, Sequence[int]], edges: Sequence[float], path: str) -> None:
  """Live weights by magnitude, a line for each kind of matrix.

  Args:
    histograms: for each kind the number of live weights in each bin.
    edges: log2 of the lower edge of each bin.
    path: PNG to write.
  """
  width = edges[1] - edges[0]
  counts = np.array([*histograms.values()], float)
  cumulative = np.cumsum(counts.sum(axis=0)) / max(counts.sum(), 1.0)
  # The few weights in the tails would squeeze the rest.
  first, last = np.searchsorted(cumulative, (_TAIL, 1 - _TAIL))
  with style.in_style():
    figure, axes = style.panels(1, 1, width=6.8, height=3.6)
    axis = axes[0, 0]
    for index, (kind, row) in enumerate(zip(histograms, counts)):
      if row.sum():
        look = style.series(index) | {"marker": "", "linewidth": 1.6}
        axis.plot(np.array(edges) + width / 2, 100 * row / row.sum(), label=kind, **look)
    axis.set_xlim(edges[first] - 1, edges[last] + 1)
    axis.set(xlabel="log2 of the magnitude", ylabel=f"live weights (% in each {width:g} octave)", ylim=(0, None))
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    style.save_picture(figure, path)


def density_grid(matrices: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str], NDArray[Any]]:
  """Kinds (rows), layers (columns) and percentages; NaN where a kind has no such layer. Experts are averaged."""
  cells: dict[tuple[str, str], list[float]] = {}
  for matrix in matrices:
    kind, layer = split_name(matrix["name"])
    cells.setdefault((kind, layer), []).append(100 * matrix["density"])
  kinds = list(dict.fromkeys(kind for kind, _ in cells))
  layers = sorted({layer for _, layer in cells}, key=layer_order)
  grid = np.full((len(kinds), len(layers)), np.nan)
  for (kind, layer), values in cells.items():
    grid[kinds.index(kind), layers.index(layer)] = np.mean(values)
  return kinds, layers, grid
