"""Figure 1: active parameters over training and final loss of sparse runs and their dense twins."""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
import numpy as np
import pandas as pd

from maxtext_sparse.config import KEYS, parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import Array
from maxtext_sparse.laws.curves import Curve
from maxtext_sparse.laws.pairing import find_pairs, is_near, label_gaps, Repeats
from maxtext_sparse.plots import style
from maxtext_sparse.plots.inputs import read_inputs
from maxtext_sparse.plots.labels import name_points
from maxtext_sparse.schedule import build_schedule

# Steps of the schedule that is drawn for a run without a metrics file.
_NOMINAL_STEPS = 20_000
# Dense runs to interpolate between are within this factor of the wanted size.
_NEIGHBOUR = 1.5
# Panels that have room beside the losses.
_MOST_BESIDE = 6
# Points that have room for a full name.
_MOST_NAMED = 8
# From this ratio of the sizes on, the axis of the losses is logarithmic.
_WIDE = 5.0
_TWENTIETHS = np.linspace(0, 100, 21)
_SPARSE: dict[str, Any] = {
  "label": "sparse",
  "linestyle": "--",
  "marker": "s",
  "markerfacecolor": "none",
  "markeredgewidth": 1.6,
}
_DENSE: dict[str, Any] = {"label": "dense twin", "linestyle": "-", "marker": "o"}
_INTERPOLATED: dict[str, Any] = {"label": "dense, interpolated", "linestyle": ":", "marker": "X"}


@dataclasses.dataclass
class _Panel:
  """Pairs of one sparsity, size and N(t). They differ in their length or another setting."""

  title: str
  active: tuple[Array, Array] | None
  pairs: list[Repeats]


def draw_pairs(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """N(t) of the sparse runs (dashed) and their twins (solid), and their final losses.

  The names of the numbers say which run is compared. Seeds of one run share a panel and a point, their mean.
  """
  del laws
  curves, table = read_inputs(inputs)
  pairs = find_pairs(table, _NEIGHBOUR)
  if not pairs:
    raise ConfigError("pairs: no sparse run has dense runs of as many tokens around its average_params, add them")
  panels = _panels(pairs, {curve.name: curve for curve in curves})
  figure, parts, num_columns = _parts(len(panels), len(pairs))
  _draw_all_active(parts[0], panels, num_columns)
  _draw_losses(parts[1], panels)
  numbers: dict[str, Any] = dict(label_gaps(pairs))
  num_left_out = int((table["sparsity"] > 0).sum()) - sum(len(group.pairs) for group in pairs)
  return figure, numbers | ({"runs_without_twin": num_left_out} if num_left_out else {})


def _panels(pairs: Sequence[Repeats], curves: dict[str, Curve]) -> list[_Panel]:
  panels: dict[Any, _Panel] = {}
  for pair in pairs:
    row = pair.first.sparse
    active = _active(row, curves)
    size = style.compact(row["average_params"])
    # Curves are the same if they agree to a percent of the dense size at every twentieth of the run.
    shape = None if active is None else tuple(np.round(np.interp(_TWENTIETHS, *active) / row["dense_params"], 2))
    key = (row["sparsity"], style.compact(row["dense_params"]), size, shape)
    title = f"{style.percent(row['sparsity'])}, average {size}"
    panels.setdefault(key, _Panel(title, active, [])).pairs.append(pair)
  return list(panels.values())


def _parts(num_panels: int, num_points: int) -> tuple[Figure, Sequence[SubFigure], int]:
  """A page with a part for N(t) and one for the losses, and the columns of the first.

  Few panels are to the left of the losses. Many are above them, and so are those of many points, which need the width.
  """
  if num_panels <= _MOST_BESIDE and num_points <= _MOST_NAMED:
    num_columns = min(2, num_panels)
    num_rows = -(-num_panels // num_columns)
    widths = (2.1 * num_columns, 3.3)
    figure = Figure(figsize=(sum(widths), max(3.2, 2.0 * num_rows + 0.5)))
    parts = figure.subfigures(1, 2, width_ratios=widths)
  else:
    num_columns = min(4, num_panels)
    heights = (min(1.6 * -(-num_panels // num_columns), style.PAGE[1] - 4.0), 4.0)
    figure = Figure(figsize=(style.PAGE[0], sum(heights)))
    parts = figure.subfigures(2, 1, height_ratios=heights)
  # Room between a panel's last tick label and the next one's first.
  figure.set_layout_engine("constrained", wspace=0.06)
  return figure, list(np.ravel(np.asarray(parts))), num_columns


def _names(panels: Sequence[_Panel]) -> list[str]:
  """What tells each point from all others: as much as is needed of sparsity, average size, tokens and the run's name.

  Many points have no room for the average size. Their place says it.
  """
  homes = [index for index, panel in enumerate(panels) for _ in panel.pairs]
  rows = [pair.first.sparse for panel in panels for pair in panel.pairs]
  lengths = [row["tokens"] for row in rows]
  parts = [
    [style.percent(row["sparsity"]) for row in rows],
    [style.compact(row["average_params"]) for row in rows],
    ["" if is_near(min(lengths), max(lengths)) else f"{style.compact(length)} tokens" for length in lengths],
  ]
  if len(rows) > _MOST_NAMED:
    del parts[1]
  else:
    homes = [0] * len(rows)
  varying = [part for part in parts if len(set(part)) > 1] or parts[:1]
  for count in range(1, len(varying) + 1):
    names = [", ".join(name) for name in zip(*varying[:count])]
    if len(set(zip(names, homes))) == len(names):
      return names
  words = [row["run"].split("-") for row in rows]
  num_shared = next((index for index, column in enumerate(zip(*words)) if len(set(column)) > 1), 0)
  return ["-".join(name[num_shared:]) for name in words]


def _look(pair: Repeats) -> dict[str, Any]:
  return _INTERPOLATED if pair.first.is_interpolated else _DENSE


def _draw_all_active(part: SubFigure, panels: Sequence[_Panel], num_columns: int) -> None:
  is_one_size = len({panel.pairs[0].first.sparse["dense_params"] for panel in panels}) == 1
  axes = part.subplots(-(-len(panels) // num_columns), num_columns, squeeze=False, sharex=True, sharey=is_one_size)
  for index, (axis, panel) in enumerate(zip(axes.flat, panels)):
    _draw_active(axis, style.colour(index), panel)
    axis.tick_params(labelbottom=True, labelleft=True)
  for axis in axes.flat[len(panels) :]:
    axis.remove()
  part.supxlabel("training progress (% of steps)", fontsize=9)
  part.supylabel("active parameters", fontsize=9)
  _draw_legend(part, panels, hidden="marker")


def _draw_active(axis: Axes, colour: str, panel: _Panel) -> None:
  pair = panel.pairs[0]
  if panel.active is None:
    axis.text(50, 0.4 * pair.first.twin_size, "no metrics file", ha="center", va="center", size=8)
  else:
    axis.step(*panel.active, where="post", linestyle=_SPARSE["linestyle"], color=colour)
  axis.axhline(pair.first.twin_size, linestyle=_look(pair)["linestyle"], color=colour)
  # The axis ends above the dense size, where a curve begins, also where there is no curve.
  axis.set(xlim=(0, 100), ylim=(0, 1.08 * pair.first.sparse["dense_params"]), xticks=range(0, 101, 25))
  axis.set_title(panel.title, size=8)
  axis.tick_params(labelsize=8)
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


def _draw_losses(part: SubFigure, panels: Sequence[_Panel]) -> None:
  axis = part.subplots()
  sparse, dense = [], []
  for index, panel in enumerate(panels):
    look: dict[str, Any] = {"color": style.colour(index), "markersize": 7}
    for pair in panel.pairs:
      sparse.append((float(pair.first.sparse["average_params"]), pair.sparse_loss))
      dense.append((float(pair.first.twin_size), pair.twin_loss))
      axis.plot(*dense[-1], **look | _look(pair) | {"linestyle": "none"})
      axis.plot(*sparse[-1], **look | _SPARSE | {"linestyle": "none"})
  axis.set(xlabel="average active parameters", ylabel="final evaluation loss (nats per token)")
  axis.margins(0.15)
  sizes = [size for size, _ in sparse]
  if max(sizes) > _WIDE * min(sizes):
    axis.set_xscale("log")
    style.log_ticks(axis.xaxis)
  else:
    axis.xaxis.set_major_locator(MaxNLocator(4))
    style.count_axis(axis.xaxis)
  _draw_legend(part, panels, hidden="linestyle")
  name_points(axis, _names(panels), sparse, dense)


def _draw_legend(part: SubFigure, panels: Iterable[_Panel], hidden: str) -> None:
  """Says in black what is sparse and what is dense, above the panels so that it covers none of them."""
  pairs = [pair for panel in panels for pair in panel.pairs]
  looks = [_SPARSE, *(look for look in (_DENSE, _INTERPOLATED) if any(_look(pair) is look for pair in pairs))]
  common: dict[str, Any] = {"color": "black", "markersize": 6}
  lines = [Line2D([], [], **common | look | {hidden: "none"}) for look in looks]
  part.legend(handles=lines, loc="outside upper center", ncols=len(lines))
