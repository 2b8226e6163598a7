"""Figures that judge a fit: residuals against size, tokens and sparsity, and the profile of each coefficient."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
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
  figure, axes = style.panels(1, 3, width=2.5, height=2.8, sharey=True)
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
      style.log_ticks(axis.xaxis, most=4)
  axes[0, 0].set_ylabel("actual over predicted loss (%)")
  figure.legend(*axes[0, 0].get_legend_handles_labels(), title="sparsity", loc="outside right upper")
  return figure


def draw_profiles(profiles: Sequence[Profile]) -> Figure:
  """The objective over its least value, as each coefficient moves 3 standard errors to both sides; dashed: 95 %."""
  figure, axes = style.wrapped(len(profiles), _COLUMNS, width=2.5, height=2.1)
  for axis, profile in zip(axes, profiles):
    axis.plot(profile.values, profile.objective, **style.series(0) | {"markersize": 4})
    axis.axhline(profile.threshold, color="0.4", linewidth=0.8, linestyle=style.DASHES[1])
    # What lies far above the threshold does not matter, and would flatten the rest.
    top = 1.0 + _VISIBLE * (profile.threshold - 1.0)
    axis.set_ylim(1.0 - 0.05 * (top - 1.0), top)
    axis.set_title(f"{profile.name}{' (open)' if profile.is_open else ''}", size=9)
    if np.all(profile.values > 0) and profile.values.max() > 30 * profile.values.min():
      axis.set_xscale("log")
    # Up to the first point out of sight on each side.
    seen = np.flatnonzero(profile.objective <= top)
    ends = profile.values[[max(seen[0] - 1, 0), min(seen[-1] + 1, len(profile.values) - 1)]]
    if ends[1] > ends[0]:
      axis.set_xlim(*ends)
    if axis.get_xscale() == "log":
      style.log_ticks(axis.xaxis, "{:.2g}".format, most=3)
    else:
      axis.xaxis.set_major_locator(MaxNLocator(4))
  for axis in axes[::_COLUMNS]:
    axis.set_ylabel("objective / least")
  return figure
