"""Figures at equal effective compute: loss against size (isoFLOP), and the frontier of final size and loss."""

from collections.abc import Sequence
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import Array
from maxtext_sparse.laws.fit import Fit, fit
from maxtext_sparse.laws.forms import law_named
from maxtext_sparse.laws.law import Law
from maxtext_sparse.laws.recommend import golden_section
from maxtext_sparse.laws.uncertainty import Bootstrap, bootstrap, interval
from maxtext_sparse.plan.cost import training_flops
from maxtext_sparse.plots import style
from maxtext_sparse.plots.inputs import read_tables

# Runs whose compute differs by at most this share have equal compute.
_SAME = 0.03
# A level of compute needs runs of as many sizes to show a minimum.
_LEAST_SIZES = 3
_NUM_LEVELS = 4
# Where a table has no such levels, runs within this factor of a level are drawn with it.
_NEAR = 1.3
_NUM_RESAMPLES = 200
_NUM_SIZES = 200


def draw_isoflop(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Loss against average size for several levels of effective compute: runs, the law, and the law's dense optimum."""
  law = _one_law("isoflop", laws)
  runs = read_tables(inputs)
  fitted = fit(law, runs)
  resamples = bootstrap(fitted, _NUM_RESAMPLES)
  compute = effective_compute(runs)
  figure, axes = style.panels(1, 1, width=6.4, height=3.8)
  axis: Axes = axes[0, 0]
  numbers: dict[str, Any] = {}
  shown = runs["loss"].tolist()
  for index, level in enumerate(compute_levels(runs)):
    near = runs[np.abs(np.log(compute / level)) <= np.log(_NEAR)]
    best, (low, high) = dense_optimum(fitted, resamples, level)
    _draw_level(axis, fitted, near, level, style.series(index))
    loss = fitted.predict(_dense(np.array([best]), level))[0]
    axis.errorbar(
      best, loss, xerr=[[best - low], [high - best]], fmt="none", ecolor="black", elinewidth=1.4, capsize=4, zorder=4
    )
    axis.plot(best, loss, marker="*", markersize=11, color="white", markeredgecolor="black", zorder=5)
    shown.append(float(loss))
    numbers[f"best_size_at_{level:.2e}"] = float(f"{best:.4g}")
    numbers[f"interval_at_{level:.2e}"] = [float(f"{end:.4g}") for end in (low, high)]
  axis.set(xscale="log", xlabel="average active parameters", ylabel="final evaluation loss (nats per token)")
  # The runs and the optima fill the height. Beside them a law may rise out of sight.
  margin = 0.1 * (max(shown) - min(shown))
  axis.set_ylim(min(shown) - margin, max(shown) + margin)
  axis.set_title(f"law {fitted.law.name}; star: dense optimum, 90 % interval", size=9)
  style.log_ticks(axis.xaxis)
  axis.legend(title="effective FLOPs; open: sparse", loc="center left", bbox_to_anchor=(1.0, 0.5))
  return figure, numbers


def _one_law(figure: str, laws: Sequence[str]) -> Law:
  if len(laws) > 1:
    raise ConfigError(f"--law={','.join(laws)}: {figure} draws one law, keep one")
  return law_named(laws[0])


def draw_frontier(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Least loss for each final size at equal effective compute, dense and sparse, a panel for each level of compute.

  Raises:
    ConfigError: the runs are not both dense and sparse, or the law does not know the sparsity.
  """
  law = _one_law("frontier", laws)
  runs = read_tables(inputs)
  for is_missing, kind in (((runs["sparsity"] > 0).all(), "dense"), ((runs["sparsity"] == 0).all(), "sparse")):
    if is_missing:
      raise ConfigError(f"frontier: no run is {kind}, so there is no frontier to compare; add {kind} runs")
  fitted = fit(law, runs)
  if not fitted.law.knows_sparsity:
    raise ConfigError(f"--law={fitted.law.name}: leaves the sparsity out, must be average, frantar or a multiplier law")
  levels = compute_levels(runs)[-3:]
  figure, axes = style.panels(1, len(levels), width=3.5, height=2.9, sharey=True)
  numbers: dict[str, Any] = {}
  for axis, level in zip(axes[0], levels):
    near = runs[np.abs(np.log(effective_compute(runs) / level)) <= np.log(_NEAR)]
    gap = _draw_frontier(axis, fitted, near, level)
    numbers[f"largest_gain_at_{level:.2e}"] = float(f"{gap:.4g}")
  axes[0, 0].set_ylabel("final evaluation loss (nats per token)")
  axes[0, 0].legend()
  return figure, numbers


def effective_compute(runs: pd.DataFrame) -> Array:
  """6 N_avg D [n]."""
  flops: Array = training_flops(1.0, 1.0) * (runs["average_params"] * runs["tokens"]).to_numpy()
  return flops


def compute_levels(runs: pd.DataFrame) -> list[float]:
  """Levels of effective compute to compare at, increasing.

  They are the levels that a table has, groups of runs of equal compute and several sizes. A table without them is cut at
  evenly spaced levels between its 10th and 90th percentile.
  """
  compute = np.sort(effective_compute(runs))
  breaks = np.flatnonzero(np.diff(np.log(compute)) > np.log1p(_SAME)) + 1
  groups = np.split(np.argsort(effective_compute(runs), kind="stable"), breaks)
  sizes = runs["average_params"].to_numpy()
  all_compute = effective_compute(runs)
  own = [
    float(np.exp(np.log(all_compute[group]).mean()))
    for group in groups
    if len(np.unique(np.round(np.log(sizes[group]), 2))) >= _LEAST_SIZES
    and np.ptp(np.log(all_compute[group])) < 2 * _SAME
  ]
  apart = [level for level, below in zip(own, [0.0, *own]) if level > _NEAR**2 * below]
  if len(apart) >= 2:
    return apart[-_NUM_LEVELS:]
  low, high = np.quantile(compute, [0.1, 0.9])
  return cast(list[float], np.geomspace(low, high, _NUM_LEVELS).tolist())


def dense_optimum(fitted: Fit, resamples: Bootstrap, flops: float) -> tuple[float, tuple[float, float]]:
  """The dense size of least loss for a budget of compute, and its interval over the resamples."""
  sizes = fitted.runs["average_params"]
  low, high = np.log(sizes.min() / 100), np.log(sizes.max() * 100)
  thetas = np.concatenate([fitted.theta[None], resamples.thetas])
  features = [fitted.law.features(_dense(np.exp(np.array([end])), flops)) for end in (0.0, 1.0)]
  slopes = features[1] - features[0]

  def loss(log_size: Array) -> Array:
    # Features of a dense run are straight lines in ln N.
    at = features[0] + slopes * log_size
    return np.array([np.logaddexp.reduce(fitted.law.terms(t, *at[:, i, None]))[0] for i, t in enumerate(thetas)])

  best = np.exp(golden_section(loss, np.full(len(thetas), low), np.full(len(thetas), high)))
  ends = interval(best[1:, None])
  return float(best[0]), (min(float(ends[0][0]), float(best[0])), max(float(ends[1][0]), float(best[0])))


def pareto(size: Array, loss: Array) -> Array:
  """Places of the points that no other point beats in both size and loss, by increasing size."""
  order = np.lexsort((loss, size))
  least = np.minimum.accumulate(loss[order])
  is_best = np.concatenate([[True], least[1:] < least[:-1]])
  return cast(Array, order[is_best])


def _dense(size: Array, flops: float) -> dict[str, Array]:
  """Columns of dense runs that use the whole budget."""
  counts = dict.fromkeys(("dense_params", "average_params", "final_params"), size)
  return {**counts, "sparsity": np.zeros_like(size), "tokens": flops / (training_flops(1.0, 1.0) * size)}


def _draw_level(axis: Axes, fitted: Fit, near: pd.DataFrame, level: float, look: dict[str, Any]) -> None:
  """The law's dense curve, and the runs of this level: filled where dense, open where sparse."""
  sizes = fitted.runs["average_params"]
  grid = np.geomspace(sizes.min() / 1.5, sizes.max() * 1.5, _NUM_SIZES)
  axis.plot(grid, fitted.predict(_dense(grid, level)), **look | {"marker": "", "linewidth": 1.4})
  for is_sparse, part in near.groupby(near["sparsity"] > 0):
    points = look | {"linestyle": "none", "markersize": 5, "markeredgecolor": look["color"], "markeredgewidth": 1.2}
    face = {"markerfacecolor": "none"} if is_sparse else {}
    axis.plot(part["average_params"], part["loss"], **points | face)
  axis.plot([], [], **look, label=f"{level:.2g}, {len(near)} runs")


def _draw_frontier(axis: Axes, fitted: Fit, near: pd.DataFrame, level: float) -> float:
  """Both frontiers of one level. Returns the most that sparse runs gain over dense ones of equal final size."""
  final = fitted.runs["final_params"]
  grid = np.geomspace(final.min(), final.max(), _NUM_SIZES)
  dense, sparse = fitted.predict(_dense(grid, level)), _least_sparse_loss(fitted, grid, level)
  axis.set_title(f"{level:.2g} effective FLOPs\nlaw {fitted.law.name}", size=9)
  for index, (name, losses) in enumerate((("dense", dense), ("sparse", sparse))):
    look = style.series(3 * index)
    places = pareto(grid, losses)
    axis.plot(grid[places], losses[places], **look | {"marker": ""})
    part = near[(near["sparsity"] > 0) == bool(index)]
    if len(part):
      size, loss = part["final_params"].to_numpy(), part["loss"].to_numpy()
      front = pareto(size, loss)
      axis.plot(size, loss, **look | {"linestyle": "none", "markersize": 3, "alpha": 0.5})
      axis.plot(size[front], loss[front], **look | {"linestyle": "none", "markersize": 6})
    axis.plot([], [], label=f"{name}: law, runs", **look)
  axis.set(xscale="log", xlabel="final parameters")
  style.log_ticks(axis.xaxis, most=4)
  return float((dense - sparse).max())


def _least_sparse_loss(fitted: Fit, final: Array, flops: float) -> Array:
  """The least loss of runs of a final size, at the sparsities that the table has, with its own average densities."""
  sparse = fitted.runs[fitted.runs["sparsity"] > 0]
  density = (sparse["average_params"] / sparse["dense_params"]).groupby(sparse["sparsity"]).mean()
  losses = []
  for level, share in density.items():
    size = final / (1.0 - level)
    average = size * share
    columns = {"dense_params": size, "average_params": average, "final_params": final}
    tokens = flops / (training_flops(1.0, 1.0) * average)
    losses.append(fitted.predict(columns | {"sparsity": np.full_like(size, level), "tokens": tokens}))
  least: Array = np.min(losses, axis=0)
  return least
