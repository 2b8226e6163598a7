"""The runs of a study over training: loss and active parameters of each."""

from collections.abc import Sequence

from matplotlib.figure import Figure
import numpy as np

from maxtext_sparse.laws import Array
from maxtext_sparse.laws.curves import Curve
from maxtext_sparse.plots import style

# The loss that is drawn at a step is the mean over this share of the run around it.
_SMOOTH = 0.02


def draw_curves(curves: Sequence[Curve]) -> Figure:
  """Left: training loss over tokens. Right: N(t) over the share of the run. Looks tell sparsities apart."""
  figure, axes = style.panels(1, 2, width=3.75, height=3.0)
  levels = sorted({round(curve.sparsity, 6) for curve in curves})
  # Most runs are dense. The sparse ones are drawn over them.
  for curve in sorted(curves, key=lambda curve: curve.sparsity):
    level = levels.index(round(curve.sparsity, 6))
    look = style.series(level) | {"marker": "", "linewidth": 0.7 if level == 0 else 1.4}
    axes[0, 0].plot(np.cumsum(curve.tokens), _smooth(curve.loss), **look)
    axes[0, 1].step(np.linspace(0, 100, len(curve.step)), curve.active, where="post", **look)
  for level, sparsity in enumerate(levels):
    axes[0, 1].plot([], [], label=style.percent(sparsity), **style.series(level) | {"marker": ""})
  axes[0, 0].set(xlabel="training tokens", ylabel="training loss (nats per token)", xscale="log")
  axes[0, 1].set(xlabel="training progress (% of steps)", ylabel="active prunable parameters", ylim=(0, None))
  style.log_ticks(axes[0, 0].xaxis)
  style.count_axis(axes[0, 1].yaxis)
  figure.legend(*axes[0, 1].get_legend_handles_labels(), title="sparsity", loc="outside right upper")
  return figure


def _smooth(loss: Array) -> Array:
  """The mean over a window around each step, shorter at the ends."""
  half = max(1, int(0.5 * _SMOOTH * len(loss)))
  sums = np.concatenate([[0.0], np.cumsum(loss)])
  places = np.arange(len(loss))
  low, high = np.maximum(0, places - half), np.minimum(len(loss), places + half + 1)
  means: Array = (sums[high] - sums[low]) / (high - low)
  return means
