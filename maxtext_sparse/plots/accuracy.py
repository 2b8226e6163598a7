"""Figure 3: the loss that a fitted law predicts against the actual loss."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
import numpy as np

from maxtext_sparse.laws.fit import Fit, fit
from maxtext_sparse.laws.forms import law_named
from maxtext_sparse.plots import style
from maxtext_sparse.plots.inputs import read_tables


def draw_accuracy(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """A panel for each law and a marker for each sparsity."""
  runs = read_tables(inputs)
  return draw_fits([fit(law_named(name), runs) for name in laws])


def draw_fits(fits: Sequence[Fit]) -> tuple[Figure, dict[str, Any]]:
  """The same of laws that have been fitted."""
  num_columns = min(3, len(fits))
  width = 3.8 if num_columns < 3 else 2.5
  figure, axes = style.wrapped(len(fits), num_columns, width, width, sharex=True, sharey=True)
  for axis, fitted in zip(axes, fits):
    _draw_law(axis, fitted)
  figure.supxlabel("actual loss (nats per token)", fontsize=9)
  figure.supylabel("predicted loss (nats per token)", fontsize=9)
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, title="sparsity", loc="outside upper center", ncols=len(handles))
  return figure, {f"mae_{fitted.law.name}": round(fitted.mae, 4) for fitted in fits}


def _draw_law(axis: Axes, fitted: Fit) -> None:
  actual, predicted = fitted.runs["loss"].to_numpy(), fitted.predict(fitted.runs)
  ends = np.array([min(actual.min(), predicted.min()), max(actual.max(), predicted.max())])
  axis.plot(ends, ends, color="black", linewidth=0.8)
  for index, level in enumerate(sorted(fitted.runs["sparsity"].unique())):
    is_level = (fitted.runs["sparsity"] == level).to_numpy()
    look = style.series(index) | {"linestyle": "none", "markersize": 5, "alpha": 0.9}
    axis.plot(actual[is_level], predicted[is_level], label=style.percent(level), **look)
  axis.set_title(f"{fitted.law.name} (N = {fitted.law.size.removesuffix('_params')})\nMAE {fitted.mae:.3f}", size=9)
  for side in (axis.xaxis, axis.yaxis):
    side.set_major_locator(MaxNLocator(4))
  axis.set_aspect("equal")
