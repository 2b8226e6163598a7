"""Figure 1: active parameters over training and final loss of sparse runs and their dense twins."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
import numpy as np
import pandas as pd

from maxtext_sparse.config import SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plots import style
from maxtext_sparse.plots.runs import Curve, read_inputs
from maxtext_sparse.schedule import build_schedule

# Steps of the schedule that is drawn for a run without a metrics file.
_NOMINAL_STEPS = 20_000
# A dense run with an average size within this of the sparse one's is its twin as it is.
_SAME_SIZE = 0.02
# Neighbours to interpolate between are within this factor of it.
_NEIGHBOUR = 1.5


def draw_pairs(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Left: N(t) of each sparse run (dashed) and its twin (solid). Right: their final losses.

  Where no dense run has the sparse run's average size, the loss is interpolated between its two neighbours
  (paper, footnote 1).
  """
  del laws
  curves, table = read_inputs(inputs)
  pairs = _pairs(table)
  num_columns = min(2, len(pairs))
  num_rows = -(-len(pairs) // num_columns)
  figure = Figure(figsize=(2.6 * num_columns + 3.8, max(3.2, 2.1 * num_rows + 0.5)))
  left, right = np.ravel(np.asarray(figure.subfigures(1, 2, width_ratios=[2.6 * num_columns, 3.8])))
  axes = left.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True)
  for index, (axis, (sparse, twin)) in enumerate(zip(axes.flat, pairs)):
    _draw_active(axis, index, sparse, twin, {curve.name: curve for curve in curves})
  for axis in axes.flat[len(pairs) :]:
    axis.set_visible(False)
  axes.flat[0].set_ylim(bottom=0)
  left.supxlabel("training progress (% of steps)", fontsize=9)
  left.supylabel("active prunable parameters", fontsize=9)
  _draw_losses(right.subplots(), pairs)
  return figure, {sparse["run"]: round(sparse["loss"] - twin["loss"], 4) for sparse, twin in pairs}


def _pairs(table: pd.DataFrame) -> list[tuple[pd.Series, pd.Series]]:
  """Each sparse run with its dense twin, the twin's loss and size interpolated where needed."""
  dense = table[table["sparsity"] == 0].sort_values("dense_params")
  pairs = []
  for _, sparse in table[table["sparsity"] > 0].sort_values(["sparsity", "dense_params"]).iterrows():
    near = dense[np.isclose(dense["tokens"], sparse["tokens"], rtol=0.02)]
    twin = _twin(near, sparse["average_params"])
    if twin is not None:
      pairs.append((sparse, twin))
  if not pairs:
    raise ConfigError("pairs: no sparse run has dense runs of as many tokens around its average_params, add them")
  return pairs


def _twin(dense: pd.DataFrame, size: float) -> pd.Series | None:
  dense = dense[dense["dense_params"].between(size / _NEIGHBOUR, size * _NEIGHBOUR)]
  sizes = dense["dense_params"].to_numpy()
  if not len(sizes):
    return None
  nearest = dense.iloc[int(np.argmin(np.abs(np.log(sizes / size))))]
  if abs(nearest["dense_params"] / size - 1) <= _SAME_SIZE:
    return nearest
  if not sizes.min() < size < sizes.max():
    return None
  loss = float(np.interp(size, sizes, dense["loss"].to_numpy()))
  return pd.Series({"run": "two neighbours, interpolated", "dense_params": size, "average_params": size, "loss": loss})


def _draw_active(axis, index: int, sparse: pd.Series, twin: pd.Series, curves: dict[str, Curve]) -> None:
  progress, active = _active(sparse, curves)
  colour = style.colour(index)
  axis.step(progress, active, where="post", linestyle="--", color=colour, label="sparse")
  axis.axhline(twin["dense_params"], linestyle="-", color=colour, label="dense twin")
  axis.set_title(f"{style.percent(sparse['sparsity'])} sparse, average {style.compact(sparse['average_params'])}", size=8)
  style.count_axis(axis.yaxis)
  if not index:
    axis.legend(loc="lower left")


def _active(sparse: pd.Series, curves: dict[str, Curve]) -> tuple[np.ndarray, np.ndarray]:
  """Percent of steps done, and active parameters from there on."""
  curve = curves.get(sparse["run"])
  if curve is not None:
    return 100 * np.arange(len(curve.step)) / len(curve.step), curve.active
  schedule = build_schedule(SparsityKeys(sparsity=sparse["sparsity"]), _NOMINAL_STEPS)
  steps = np.array([0, *(event + 1 for event in schedule.event_steps), _NOMINAL_STEPS])
  densities = np.array([1.0, *schedule.densities, schedule.final_density])
  return 100 * steps / _NOMINAL_STEPS, sparse["dense_params"] * densities


def _draw_losses(axis, pairs: Sequence[tuple[pd.Series, pd.Series]]) -> None:
  for index, (sparse, twin) in enumerate(pairs):
    look = {"color": style.colour(index), "markeredgecolor": "black", "markersize": 7, "linestyle": "none"}
    axis.plot(twin["average_params"], twin["loss"], marker="o", label="dense twin" if not index else None, **look)
    look |= {"markerfacecolor": "white", "markeredgecolor": style.colour(index), "markeredgewidth": 1.6}
    axis.plot(sparse["average_params"], sparse["loss"], marker="s", label="sparse" if not index else None, **look)
    axis.annotate(
      style.percent(sparse["sparsity"]),
      (sparse["average_params"], sparse["loss"]),
      textcoords="offset points",
      xytext=(7, 4),
      size=8,
    )
  axis.set(xlabel="average active parameters", ylabel="final evaluation loss (nats per token)")
  axis.margins(0.15)
  style.count_axis(axis.xaxis)
  axis.legend()
