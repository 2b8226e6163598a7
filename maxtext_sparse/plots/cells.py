"""Percentages of a model's matrices as shaded cells, a row for each kind of matrix and a column for each layer."""

from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.plots import style

# From this spread on, shades follow the logarithm: thin matrices would all be white.
_WIDE_SPREAD = 30.0
# A place without a matrix has this hatch. A matrix without weights is white and says 0.
_MISSING: dict[str, Any] = {"hatch": "////", "facecolor": "white", "edgecolor": "0.6", "linewidth": 0.0}


def draw_cells(kinds: Sequence[str], layers: Sequence[str], percent: NDArray[Any]) -> Figure:
  """Dark cells keep most of their weights.

  Args:
    kinds: names of the rows.
    layers: names of the columns.
    percent: weights left in each matrix, NaN where there is no such matrix.
  """
  width = min(style.PAGE[0], max(5.0, 0.42 * len(layers) + 2.8))
  figure, axes = style.panels(1, 1, width=width, height=min(style.PAGE[1], 0.32 * len(kinds) + 1.7))
  axis: Axes = axes[0, 0]
  norm, shades = _norm(percent), colormaps[style.SHADES]
  image = axis.imshow(np.ma.masked_invalid(percent), cmap=shades, norm=norm, aspect="auto")
  for (row, column), left in np.ndenumerate(percent):
    if np.isfinite(left):
      ink = "white" if _lightness(shades, norm, left) < 0.55 else "black"
      axis.text(column, row, short(left), ha="center", va="center", size=min(7.0, 100.0 / len(layers)), color=ink)
    else:
      axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **_MISSING))
  axis.set_xticks(range(len(layers)), layers)
  axis.set_yticks(range(len(kinds)), kinds)
  axis.set_xlabel("layer (- : outside the layers)" if "-" in layers else "layer")
  axis.grid(visible=False)
  bar = figure.colorbar(image, ax=axis, label="% of the matrix's weights left", shrink=0.9)
  if isinstance(norm, LogNorm):
    style.log_ticks(bar.ax.yaxis, "{:g}".format)
  if np.isnan(percent).any():
    figure.legend(handles=[Patch(label="no such matrix", **_MISSING)], loc="outside lower right")
  return figure


def short(percent: float) -> str:
  """Two digits; "100" only if nothing was removed, "0" only if everything was."""
  if 99.5 <= percent < 100:
    return ">99"
  return "100" if percent >= 100 else f"{percent:.2g}"


def _norm(percent: NDArray[Any]) -> Normalize:
  live = percent[np.isfinite(percent) & (percent > 0)]
  if live.size and live.max() / live.min() > _WIDE_SPREAD:
    # A matrix without weights is as light as the lightest. From there on shades are darker than white.
    return LogNorm(0.5 * live.min(), live.max(), clip=True)
  return Normalize(0, max(float(live.max(initial=0)), 1e-9))


def _lightness(shades: Colormap, norm: Normalize, percent: float) -> float:
  return float(shades(float(norm(percent)))[0])
