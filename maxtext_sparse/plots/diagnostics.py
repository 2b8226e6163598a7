"""Figures that judge a fit: residuals against size, tokens and sparsity, and the profile of each coefficient."""

from collections.abc import Sequence

from matplotlib.figure import Figure
import numpy as np

from maxtext_sparse.laws.fit import Fit
from maxtext_sparse.laws.profile import Profile
from maxtext_sparse.plots import style

_COLUMNS = 3
# Multiples of the threshold's rise that a profile's axis shows.
_VISIBLE = 5


def draw_residuals(fit: Fit) -> Figure:
  """ln L - ln L_predicted of every run against N, D and S, in percent of the loss."""
  runs = fit.runs
  residual = 100.0 * (np.log(runs["loss"].to_numpy()) - np.log(fit.predict(runs)))
  figure, axes = style.panels(1, 3, width=3.4, height=3.0, sharey=True)
  levels = sorted(runs["sparsity"].unique())
  for axis, (column, label) in zip(
    axes[0], ((fit.law.size, fit.law.size.replace("_", " ")), ("tokens", "tokens"), ("sparsity", "sparsity (%)"))
  ):
    for index, level in enumerate(levels):
      is_level = (runs["sparsity"] == level).to_numpy()
      look = style.series(index) | {"linestyle": "none", "markersize": 5}
      x = runs[column][is_level] * (100.0 if column == "sparsity" else 1.0)
      axis.plot(x, residual[is_level], label=style.percent(level), **look)
    axis.axhline(0.0, color="black", linewidth=0.8)
    axis.set_xlabel(label)
    if column != "sparsity":
      axis.set_xscale("log")
      style.label_counts(axis.xaxis, sorted(runs[column].unique()))
  axes[0, 0].set_ylabel("actual over predicted loss (%)")
  figure.legend(*axes[0, 0].get_legend_handles_labels(), title="sparsity", loc="outside right upper")
  return figure


def draw_profiles(profiles: Sequence[Profile]) -> Figure:
  """The objective over its least value, as each coefficient moves 3 standard errors to both sides; dashed: 95 %."""
  num_rows = -(-len(profiles) // _COLUMNS)
  figure, axes = style.panels(num_rows, _COLUMNS, width=3.0, height=2.3)
  for axis, profile in zip(axes.flat, profiles):
    axis.plot(profile.values, profile.objective, **style.series(0) | {"markersize": 4})
    axis.axhline(profile.threshold, color="0.4", linewidth=0.8, linestyle=style.DASHES[1])
    # What lies far above the threshold does not matter, and would flatten the rest.
    axis.set_ylim(0.98, 1.0 + _VISIBLE * (profile.threshold - 1.0))
    axis.set_title(f"{profile.name}{' (open)' if profile.is_open else ''}", size=9)
    if np.all(profile.values > 0) and profile.values.max() > 30 * profile.values.min():
      axis.set_xscale("log")
  for axis in axes.flat[len(profiles) :]:
    axis.set_visible(False)
  for row in axes:
    row[0].set_ylabel("objective / least")
  return figure
