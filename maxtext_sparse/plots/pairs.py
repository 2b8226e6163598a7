"""Figure 1: active parameters over training and final loss of sparse runs and their dense twins."""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
import numpy as np
import pandas as pd

from maxtext_sparse.config import KEYS, parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import Array
from maxtext_sparse.laws.curves import Curve
from maxtext_sparse.plots import style
from maxtext_sparse.plots.inputs import read_inputs
from maxtext_sparse.schedule import build_schedule

# Steps of the schedule that is drawn for a run without a metrics file.
_NOMINAL_STEPS = 20_000
# Sizes, lengths and schedules that differ by at most this share count as equal.
_SAME = 0.02
# Dense runs to interpolate between are within this factor of the wanted size.
_NEIGHBOUR = 1.5
# Further colours are too light for lines. Colours repeat, and titles and annotations tell pairs apart.
_NUM_COLOURS = 4
_SPARSE: dict[str, Any] = {
  "label": "sparse",
  "linestyle": "--",
  "marker": "s",
  "markerfacecolor": "none",
  "markeredgewidth": 1.6,
}
_DENSE: dict[str, Any] = {"label": "dense twin", "linestyle": "-", "marker": "o"}
_INTERPOLATED: dict[str, Any] = {"label": "dense, interpolated", "linestyle": ":", "marker": "X"}


@dataclasses.dataclass(frozen=True)
class Pair:
  """A sparse run and the dense run of its average size.

  Attributes:
    sparse: row of the sparse run.
    twin_size: parameters of the dense run.
    twin_loss: its final loss.
    twin_look: `_DENSE`, or `_INTERPOLATED` where two neighbours stand in for it.
  """

  sparse: pd.Series
  twin_size: float
  twin_loss: float
  twin_look: dict[str, Any]

  @property
  def gap(self) -> float:
    """Loss of the sparse run minus that of its twin."""
    return round(float(self.sparse["loss"] - self.twin_loss), 4)


def draw_pairs(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Left: N(t) of each sparse run (dashed) and its twin (solid). Right: their final losses.

  Where no dense run has the sparse run's average size, the loss is interpolated between its two neighbours
  (paper, footnote 1).
  """
  del laws
  curves, table = read_inputs(inputs)
  pairs = _pairs(table)
  names = _names(pairs)
  num_columns = min(2, len(pairs))
  figure = Figure(figsize=(2.6 * num_columns + 3.8, max(3.2, 2.1 * -(-len(pairs) // num_columns) + 0.5)))
  # Room between a panel's last tick label and the next one's first.
  figure.set_layout_engine("constrained", wspace=0.06)
  left, right = np.ravel(np.asarray(figure.subfigures(1, 2, width_ratios=[2.6 * num_columns, 3.8])))
  _draw_all_active(left, pairs, names, {curve.name: curve for curve in curves})
  _draw_losses(right, pairs, names)
  numbers: dict[str, Any] = {f"sparse_minus_dense_{pair.sparse['run']}": pair.gap for pair in pairs}
  num_left_out = int((table["sparsity"] > 0).sum()) - len(pairs)
  return figure, numbers | ({"runs_without_twin": num_left_out} if num_left_out else {})


def _pairs(table: pd.DataFrame) -> list[Pair]:
  """Every sparse run that has a dense twin, with it."""
  dense = table[table["sparsity"] == 0].sort_values("dense_params")
  pairs = []
  for _, sparse in table[table["sparsity"] > 0].sort_values(["sparsity", "dense_params"]).iterrows():
    pair = _pair(sparse, dense[_is_near(dense["tokens"], sparse["tokens"])])
    if pair is not None:
      pairs.append(pair)
  if not pairs:
    raise ConfigError("pairs: no sparse run has dense runs of as many tokens around its average_params, add them")
  return pairs


def _pair(sparse: pd.Series, dense: pd.DataFrame) -> Pair | None:
  """The run with its twin among dense runs of its length; None if neither one nor two neighbours are there."""
  size = sparse["average_params"]
  dense = dense[dense["dense_params"].between(size / _NEIGHBOUR, size * _NEIGHBOUR)]
  sizes = dense["dense_params"].to_numpy()
  if not len(sizes):
    return None
  nearest = dense.iloc[int(np.argmin(np.abs(np.log(sizes / size))))]
  if _is_near(nearest["dense_params"], size):
    return Pair(sparse, nearest["dense_params"], nearest["loss"], _DENSE)
  if not sizes.min() < size < sizes.max():
    return None
  return Pair(sparse, size, float(np.interp(size, sizes, dense["loss"].to_numpy())), _INTERPOLATED)


def _is_near(value: Any, other: float) -> Any:
  return abs(value / other - 1) <= _SAME


def _names(pairs: Sequence[Pair]) -> list[str]:
  """Sparsity and average size of each pair, and its tokens where pairs differ in them."""
  lengths = [pair.sparse["tokens"] for pair in pairs]
  with_tokens = not _is_near(min(lengths), max(lengths))
  return [
    f"{style.percent(pair.sparse['sparsity'])}, {style.compact(pair.sparse['average_params'])}"
    + (f"\n{style.compact(length)} tokens" if with_tokens else "")
    for pair, length in zip(pairs, lengths)
  ]


def _draw_all_active(part: SubFigure, pairs: Sequence[Pair], names: Sequence[str], curves: dict[str, Curve]) -> None:
  num_columns = min(2, len(pairs))
  is_one_size = len({pair.sparse["dense_params"] for pair in pairs}) == 1
  axes = part.subplots(-(-len(pairs) // num_columns), num_columns, squeeze=False, sharex=True, sharey=is_one_size)
  for index, (axis, pair) in enumerate(zip(axes.flat, pairs)):
    _draw_active(axis, style.colour(index % _NUM_COLOURS), pair, curves)
    axis.set_title(names[index].replace("%,", "% sparse, average"), size=8)
  if axes.size > len(pairs):
    axes.flat[-1].set_visible(False)
    axes.flat[-3].tick_params(labelbottom=True)
  part.supxlabel("training progress (% of steps)", fontsize=9)
  part.supylabel("active prunable parameters", fontsize=9)
  _draw_legend(part, pairs, hidden="marker")


def _draw_active(axis: Axes, colour: str, pair: Pair, curves: dict[str, Curve]) -> None:
  active = _active(pair.sparse, curves)
  if active is None:
    axis.text(50, 0.4 * pair.twin_size, "no metrics file", ha="center", va="center", size=8)
  else:
    axis.step(*active, where="post", linestyle=_SPARSE["linestyle"], color=colour)
  axis.axhline(pair.twin_size, linestyle=pair.twin_look["linestyle"], color=colour)
  # The axis ends above the dense size, where a curve begins, also where there is no curve.
  axis.set(xlim=(0, 100), ylim=(0, 1.08 * pair.sparse["dense_params"]), xticks=range(0, 101, 25))
  style.count_axis(axis.yaxis)


def _active(sparse: pd.Series, curves: dict[str, Curve]) -> tuple[Array, Array] | None:
  """Percent of steps done, and active parameters from there on. None if only a metrics file could tell."""
  curve = curves.get(sparse["run"])
  if curve is not None:
    return np.linspace(0, 100, len(curve.step) + 1), np.append(curve.active, curve.active[-1])
  row = {name: value for name, value in sparse.to_dict().items() if not pd.isna(value)}
  try:
    keys = parse_keys({name: row[name] for name in KEYS if name in row})
  except ConfigError as error:
    raise ConfigError(f"run {row['run']}: {error}") from error
  # Explicit steps need the run's length. Shares of it do not.
  is_explicit = keys.gmp_start_step >= 0 and "batch_tokens" in row
  num_steps = round(row["tokens"] / row["batch_tokens"]) if is_explicit else _NOMINAL_STEPS
  try:
    schedule = build_schedule(keys, num_steps)
  except ConfigError:
    return None
  if not _is_near(schedule.average_density(), row["average_params"] / row["dense_params"]):
    return None
  steps = np.array([0, *(event + 1 for event in schedule.event_steps), num_steps])
  densities = np.array([1.0, *schedule.densities, schedule.final_density])
  return 100 * steps / num_steps, row["dense_params"] * densities


def _draw_losses(part: SubFigure, pairs: Sequence[Pair], names: Sequence[str]) -> None:
  axis = part.subplots()
  sizes = [pair.sparse["average_params"] for pair in pairs]
  for index, (pair, name, size) in enumerate(zip(pairs, names, sizes)):
    look: dict[str, Any] = {"color": style.colour(index % _NUM_COLOURS), "markersize": 7}
    axis.plot(pair.twin_size, pair.twin_loss, **look | pair.twin_look | {"linestyle": "none"})
    axis.plot(size, pair.sparse["loss"], **look | _SPARSE | {"linestyle": "none"})
    # The name goes to the side where there is room.
    is_right = size > 0.5 * (min(sizes) + max(sizes))
    where: Any = {"xytext": (-11, 0) if is_right else (11, 0), "ha": "right" if is_right else "left", "va": "center"}
    axis.annotate(name, (size, pair.sparse["loss"]), textcoords="offset points", size=8, **where)
  axis.set(xlabel="average active parameters", ylabel="final evaluation loss (nats per token)")
  axis.margins(0.15)
  style.count_axis(axis.xaxis)
  _draw_legend(part, pairs, hidden="linestyle")


def _draw_legend(part: SubFigure, pairs: Iterable[Pair], hidden: str) -> None:
  """Says in black what is sparse and what is dense, above the panels so that it covers none of them."""
  looks = [_SPARSE, *(look for look in (_DENSE, _INTERPOLATED) if any(pair.twin_look is look for pair in pairs))]
  common: dict[str, Any] = {"color": "black", "markersize": 6}
  lines = [Line2D([], [], **common | look | {hidden: "none"}) for look in looks]
  part.legend(handles=lines, loc="outside upper center", ncols=len(lines))
