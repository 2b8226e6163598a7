"""Figures for decisions: the bill over a model's life, and the best sparsity for each size and budget."""

import math

from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
import numpy as np

from maxtext_sparse.laws import Array
from maxtext_sparse.laws.contours import Contours
from maxtext_sparse.laws.life import Life
from maxtext_sparse.plots import style

_NUM_TICKS = 5
_STEPS = (0.01, 0.02, 0.05, 0.1)
_MOST_LEVELS = 12
# Share of each side of the axes that stays free of labels on lines.
_MARGIN = 0.08


def draw_life(life: Life) -> Figure:
  """Total FLOPs of the cheapest dense and sparse runs over the tokens served, and their ratio below."""
  served, dense, sparse = life.curves()
  figure, axes = style.panels(2, 1, width=5.6, height=2.4, sharex=True, height_ratios=(2, 1))
  top, bottom = axes[0, 0], axes[1, 0]
  for index, (name, totals) in enumerate((("dense", dense), ("sparse", sparse))):
    look = style.series(3 * index) | {"markevery": style.marks(index, len(served)), "markersize": 4}
    top.plot(served, totals, label=f"cheapest {name} run", **look)
  bottom.plot(served, dense / sparse, color="black")
  bottom.axhline(1.0, color="0.6", linewidth=0.8)
  _mark(top, life)
  _mark(bottom, life)
  top.set(xscale="log", yscale="log", ylabel="training and serving (FLOPs)")
  top.set_title(f"runs that reach a loss of {life.quality.loss:.4f}, law {life.quality.fit.law.name}", size=9)
  bottom.set(xlabel="tokens served over the model's life", ylabel="dense / sparse bill")
  style.log_ticks(top.xaxis, most=8)
  style.log_ticks(top.yaxis, style.flops_text)
  top.legend(loc="upper left")
  return figure


def draw_contours(contours: Contours) -> Figure:
  """The best sparsity as lines and shades over final size and training budget."""
  figure, axes = style.panels(1, 1, width=5.4, height=4.0)
  axis: Axes = axes[0, 0]
  place = (contours.tokens, contours.final_params, contours.sparsity)
  levels = _levels(contours.sparsity)
  # The darkest shade is well above the largest level, so that black labels stay legible.
  image = axis.contourf(*place, levels, cmap=style.SHADES, vmin=levels[0], vmax=2 * levels[-1] - levels[0])
  if len(levels) > 2:
    lines = axis.contour(*place, levels, colors="black", linewidths=0.7)
    axis.set(xscale="log", yscale="log")
    axis.clabel(lines, fmt=style.percent_of, fontsize=8, manual=_label_places(axis, lines))
  figure.colorbar(image, ax=axis, label="best sparsity", format=style.percent_of, ticks=levels)
  axis.set(xscale="log", yscale="log", xlabel="budget: tokens that a dense model of this final size would see")
  axis.set_ylabel("final parameters")
  axis.set_title(f"law {contours.law}, runs of equal effective compute", size=9)
  for side, values in ((axis.xaxis, contours.tokens), (axis.yaxis, contours.final_params)):
    ticks = np.geomspace(values[0], values[-1], _NUM_TICKS)
    side.set_ticks(ticks, [style.compact(tick) for tick in ticks])
    side.set_ticks([], minor=True)
  axis.grid(visible=False)
  return figure


def _label_places(axis: Axes, lines: QuadContourSet) -> list[tuple[float, float]]:
  """The middle of each line's part inside a margin, so that no label is cut off. Short lines have none."""
  places = []
  for segments in lines.allsegs:
    for points in segments:
      at = axis.transAxes.inverted().transform(axis.transData.transform(points))
      inner = points[((at > _MARGIN) & (at < 1 - _MARGIN)).all(axis=1)]
      if len(inner) >= 3:
        places.append((float(inner[len(inner) // 2][0]), float(inner[len(inner) // 2][1])))
  return places


def _levels(sparsity: Array) -> list[float]:
  """Multiples of 1, 2, 5 or 10 % that span the values, at most a dozen."""
  low, high = float(sparsity.min()), float(sparsity.max())
  step = next(step for step in _STEPS if (high - low) / step <= _MOST_LEVELS or step == _STEPS[-1])
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [round(step * index, 3) for index in range(first, max(last, first + 1) + 1)]


def _mark(axis: Axes, life: Life) -> None:
  """Vertical lines at the tokens asked for and at the break-even."""
  if life.budget.inference_tokens > 0:
    label = f"asked for, {style.compact(life.budget.inference_tokens)}"
    axis.axvline(life.budget.inference_tokens, color="0.4", linewidth=1, linestyle=style.DASHES[2], label=label)
  if 0 < life.break_even < np.inf:
    label = f"break-even, {style.compact(life.break_even)}"
    axis.axvline(life.break_even, color="black", linewidth=1, linestyle=style.DASHES[1], label=label)
