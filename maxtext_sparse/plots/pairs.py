"""Figure 1: active parameters over training and final loss of sparse runs and their dense twins."""

from collections.abc import Iterable, Sequence
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
from maxtext_sparse.laws.pairing import find_pairs, is_near, label_gaps, Repeats
from maxtext_sparse.plots import style
from maxtext_sparse.plots.inputs import read_inputs
from maxtext_sparse.schedule import build_schedule

# Steps of the schedule that is drawn for a run without a metrics file.
_NOMINAL_STEPS = 20_000
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


def draw_pairs(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Left: N(t) of each sparse run (dashed) and its twin (solid). Right: their final losses.

  The names of the numbers say which run is compared. Seeds of one run share a panel and a point, their mean.
  """
  del laws
  curves, table = read_inputs(inputs)
  pairs = find_pairs(table, _NEIGHBOUR)
  if not pairs:
    raise ConfigError("pairs: no sparse run has dense runs of as many tokens around its average_params, add them")
  names = _names(pairs)
  num_columns = min(2, len(pairs))
  figure = Figure(figsize=(2.6 * num_columns + 3.8, max(3.2, 2.1 * -(-len(pairs) // num_columns) + 0.5)))
  # Room between a panel's last tick label and the next one's first.
  figure.set_layout_engine("constrained", wspace=0.06)
  left, right = np.ravel(np.asarray(figure.subfigures(1, 2, width_ratios=[2.6 * num_columns, 3.8])))
  _draw_all_active(left, pairs, names, {curve.name: curve for curve in curves})
  _draw_losses(right, pairs, names)
  numbers: dict[str, Any] = dict(label_gaps(pairs))
  num_left_out = int((table["sparsity"] > 0).sum()) - sum(len(group.pairs) for group in pairs)
  return figure, numbers | ({"runs_without_twin": num_left_out} if num_left_out else {})


def _names(pairs: Sequence[Repeats]) -> list[str]:
  """Sparsity and average size of each pair, and its tokens where pairs differ in them."""
  lengths = [pair.first.sparse["tokens"] for pair in pairs]
  with_tokens = not is_near(min(lengths), max(lengths))
  return [
    f"{style.percent(pair.first.sparse['sparsity'])}, {style.compact(pair.first.sparse['average_params'])}"
    + (f"\n{style.compact(length)} tokens" if with_tokens else "")
    for pair, length in zip(pairs, lengths)
  ]


def _look(pair: Repeats) -> dict[str, Any]:
  return _INTERPOLATED if pair.first.is_interpolated else _DENSE


def _draw_all_active(part: SubFigure, pairs: Sequence[Repeats], names: Sequence[str], curves: dict[str, Curve]) -> None:
  num_columns = min(2, len(pairs))
  is_one_size = len({pair.first.sparse["dense_params"] for pair in pairs}) == 1
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


def _draw_active(axis: Axes, colour: str, pair: Repeats, curves: dict[str, Curve]) -> None:
  active = _active(pair.first.sparse, curves)
  if active is None:
    axis.text(50, 0.4 * pair.first.twin_size, "no metrics file", ha="center", va="center", size=8)
  else:
    axis.step(*active, where="post", linestyle=_SPARSE["linestyle"], color=colour)
  axis.axhline(pair.first.twin_size, linestyle=_look(pair)["linestyle"], color=colour)
  # The axis ends above the dense size, where a curve begins, also where there is no curve.
  axis.set(xlim=(0, 100), ylim=(0, 1.08 * pair.first.sparse["dense_params"]), xticks=range(0, 101, 25))
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
  if not is_near(schedule.average_density(), row["average_params"] / row["dense_params"]):
    return None
  steps = np.array([0, *(event + 1 for event in schedule.event_steps), num_steps])
  densities = np.array([1.0, *schedule.densities, schedule.final_density])
  return 100 * steps / num_steps, row["dense_params"] * densities


def _draw_losses(part: SubFigure, pairs: Sequence[Repeats], names: Sequence[str]) -> None:
  axis = part.subplots()
  sizes = [pair.first.sparse["average_params"] for pair in pairs]
  for index, (pair, name, size) in enumerate(zip(pairs, names, sizes)):
    look: dict[str, Any] = {"color": style.colour(index % _NUM_COLOURS), "markersize": 7}
    axis.plot(pair.first.twin_size, pair.twin_loss, **look | _look(pair) | {"linestyle": "none"})
    axis.plot(size, pair.sparse_loss, **look | _SPARSE | {"linestyle": "none"})
    # The name goes to the side where there is room.
    is_right = size > 0.5 * (min(sizes) + max(sizes))
    where: Any = {"xytext": (-11, 0) if is_right else (11, 0), "ha": "right" if is_right else "left", "va": "center"}
    axis.annotate(name, (size, pair.sparse_loss), textcoords="offset points", size=8, **where)
  axis.set(xlabel="average active parameters", ylabel="final evaluation loss (nats per token)")
  axis.margins(0.15)
  style.count_axis(axis.xaxis)
  _draw_legend(part, pairs, hidden="linestyle")


def _draw_legend(part: SubFigure, pairs: Iterable[Repeats], hidden: str) -> None:
  """Says in black what is sparse and what is dense, above the panels so that it covers none of them."""
  looks = [_SPARSE, *(look for look in (_DENSE, _INTERPOLATED) if any(_look(pair) is look for pair in pairs))]
  common: dict[str, Any] = {"color": "black", "markersize": 6}
  lines = [Line2D([], [], **common | look | {hidden: "none"}) for look in looks]
  part.legend(handles=lines, loc="outside upper center", ncols=len(lines))
