"""Figures 4, 5, 6: sweeps over the pruning schedule, over batch size and learning rate, over start and duration."""

from collections.abc import Sequence
import itertools
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
import numpy as np
import pandas as pd

from maxtext_sparse.config import KEYS
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plots import style
from maxtext_sparse.plots.inputs import read_tables

_FRACTIONS = ("gmp_dense_fraction", "gmp_prune_fraction")
_LOSS = "final evaluation loss (nats per token)"
# Panels of bars in a column of a page.
_MOST_ROWS = 4
# The paper's schedule: shares of the compute spent dense and pruning.
_BEST = (0.25, 0.5)
# What a panel varies, and the share that it keeps fixed.
_FIXED = (f"start, with {style.percent(_BEST[1])} pruning", f"duration, with {style.percent(_BEST[0])} dense")


def draw_schedules(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Figure 4: a panel for each size and length, with a group of bars for each schedule and a bar for each sparsity."""
  del laws
  runs = _sparse(read_tables(inputs, _FRACTIONS))
  sizes, sparsities = _sizes(runs), sorted(runs["sparsity"].unique())
  kinds = list(runs.groupby([_rounded(runs[column]) for column in ("dense_params", "tokens")]))
  num_columns = 1 + (len(kinds) > _MOST_ROWS) + (len(kinds) > 2 * _MOST_ROWS)
  figure, axes = style.wrapped(len(kinds), num_columns, style.PAGE[0] / num_columns, height=2.9)
  numbers: dict[str, Any] = {}
  for axis, ((size, length), part) in zip(axes, kinds):
    table = _mean_loss(part, _FRACTIONS, "sparsity")
    _draw_bars(axis, table, sparsities)
    if num_columns > 1:
      axis.tick_params(axis="x", labelrotation=90, labelsize=7)
    axis.set_title(_kind(size, length, sizes), size=9)
    # Bars start just below the least loss, because schedules differ by about a percent of it.
    losses = runs["loss"][_rounded(runs["dense_params"]) == size]
    room = losses.max() - losses.min() or 0.1
    axis.set_ylim(losses.min() - 0.15 * room, losses.max() + 0.05 * room)
    for level, column in table.items():
      numbers[f"best_{_key(size, length, sizes)}_s{100 * level:g}"] = _schedule_name(column.idxmin())
  figure.supxlabel("(dense %, pruning %) of the training compute; the loss axis does not start at 0", fontsize=9)
  figure.supylabel(_LOSS, fontsize=9)
  _draw_legend(figure, axes)
  return figure, numbers


def draw_rates(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Figure 5: for each sparsity a grid of losses over batch size and learning rate, with the best one framed."""
  del laws
  runs = read_tables(inputs, ("learning_rate", "batch_tokens"))
  _check_one_kind(runs)
  levels = sorted(runs["sparsity"].unique())
  # A cell needs room for a bold loss and its frame. The colour bar takes an inch.
  num_columns = min(len(levels), max(1, int((style.PAGE[0] - 1.0) / (0.6 * runs["learning_rate"].nunique()))), 3)
  width = 2.6 if num_columns < 3 else style.PAGE[0] / 3
  figure, axes = style.wrapped(len(levels), num_columns, width, height=2.3)
  limits = runs["loss"].min(), runs["loss"].max()
  numbers = {}
  for axis, level in zip(axes, levels):
    grid = _mean_loss(runs[runs["sparsity"] == level], ("batch_tokens",), "learning_rate")
    image = _draw_grid(axis, grid, limits)
    axis.set_title(f"sparsity {style.percent(level)}", size=9)
    batch, rate = grid.stack().idxmin()
    numbers[f"best_s{100 * level:g}"] = f"learning rate {rate:g}, {style.compact(batch)} tokens a step"
  figure.supylabel("batch size (tokens)", fontsize=9)
  figure.supxlabel("learning rate (peak)", fontsize=9)
  # On two lines, because a figure of one row is lower than the whole label is long.
  figure.colorbar(image, ax=axes, label=_LOSS.replace(" (", "\n("), shrink=0.9)
  return figure, numbers


def draw_phases(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Figure 6: loss over the start of pruning (50 % pruning) and over its duration (25 % dense).

  Each size has two rows and each length a column.
  """
  del laws
  runs = _sparse(read_tables(inputs, _FRACTIONS))
  sizes, lengths = _sizes(runs), sorted(_rounded(runs["tokens"]).unique())
  figure, axes = style.panels(2 * len(sizes), len(lengths), width=3.4, height=2.7)
  sparsities = sorted(runs["sparsity"].unique())
  numbers: dict[str, Any] = {}
  for varied in range(2):
    at_best = _at_best(runs, 1 - varied)
    for (row, size), (column, length) in itertools.product(enumerate(sizes), enumerate(lengths)):
      part = at_best[(_rounded(at_best["dense_params"]) == size) & (_rounded(at_best["tokens"]) == length)]
      axis = axes[2 * row + varied, column]
      axis.set_title(f"{_FIXED[varied]}\n{_kind(size, length, sizes)}", size=8)
      best = _draw_phase(axis, part, varied, sparsities)
      key = f"best_{('start', 'duration')[varied]}_{_key(size, length, sizes)}"
      numbers |= {f"{key}_s{100 * level:g}": style.percent(share) for level, share in best.items()}
  _share_limits(axes, runs, sizes)
  figure.supylabel(_LOSS, fontsize=9)
  _draw_legend(figure, list(axes.flat))
  return figure, numbers


def _sparse(runs: pd.DataFrame) -> pd.DataFrame:
  sparse = runs[runs["sparsity"] > 0]
  if sparse.empty:
    raise ConfigError("sparsity: all runs are dense, this figure is about pruning schedules")
  return sparse


def _at_best(runs: pd.DataFrame, held: int) -> pd.DataFrame:
  """The runs with the paper's share of what a panel keeps fixed."""
  at_best = runs[np.isclose(runs[_FRACTIONS[held]], _BEST[held])]
  if at_best.empty:
    raise ConfigError(f"{_FRACTIONS[held]}: no run has the paper's {_BEST[held]:g}, this figure needs runs that do")
  return at_best


def _rounded(counts: pd.Series) -> pd.Series:
  """Rounded to the three digits that titles show, because a length is rarely a multiple of every batch size."""
  return counts.map(lambda count: float(f"{count:.3g}"))


def _sizes(runs: pd.DataFrame) -> list[float]:
  return sorted(_rounded(runs["dense_params"]).unique())


def _kind(size: float, length: float, sizes: Sequence[float]) -> str:
  """The title of a panel: its length, and its size if there are several."""
  return (f"{style.compact(size)} dense, " if len(sizes) > 1 else "") + f"{style.compact(length)} tokens"


def _key(size: float, length: float, sizes: Sequence[float]) -> str:
  return (f"{style.compact(size)}_" if len(sizes) > 1 else "") + style.compact(length)


def _check_one_kind(runs: pd.DataFrame) -> None:
  """Refuses runs that cannot share a grid. Lengths may differ a little, as batch sizes make them."""
  for column, most in (("dense_params", 1.02), ("tokens", 1.5)):
    low, high = runs[column].min(), runs[column].max()
    if high > most * low:
      raise ConfigError(
        f"{column}={style.compact(low)} to {style.compact(high)}: rates needs runs that differ by at most "
        f"{most:g} times, give those of one {'size' if column == 'dense_params' else 'length'}"
      )


def _mean_loss(runs: pd.DataFrame, rows: Sequence[str], columns: str) -> pd.DataFrame:
  """Mean loss over repeats, NaN where a combination was not run.

  Raises:
    ConfigError: runs of one combination differ in another setting, so they are not repeats.
  """
  cells = runs.groupby([*rows, columns])
  for setting in sorted({*KEYS, "learning_rate", "batch_tokens"}.intersection(runs) - {*rows, columns}):
    num_values = cells[setting].nunique()
    if (num_values > 1).any():
      values = ", ".join(map(str, sorted(cells.get_group(num_values.idxmax())[setting].dropna().unique())))
      raise ConfigError(f"{setting}={values}: runs that are otherwise equal differ in it, give those of one value")
  index = rows[0] if len(rows) == 1 else list(rows)
  return runs.pivot_table(values="loss", index=index, columns=columns, aggfunc="mean").sort_index()


def _schedule_name(shares: Any) -> str:
  return "({:g}, {:g})".format(*(100 * share for share in shares))


def _draw_bars(axis: Axes, table: pd.DataFrame, sparsities: Sequence[float]) -> None:
  width = 0.8 / len(sparsities)
  for index, level in enumerate(sparsities):
    if level not in table:
      continue
    places = np.arange(len(table)) + (index - (len(sparsities) - 1) / 2) * width
    look: dict[str, Any] = {
      "color": style.colour(index),
      "hatch": style.HATCHES[index % len(style.HATCHES)],
      "edgecolor": "white",
    }
    axis.bar(places, table[level], width, label=style.percent(level), linewidth=0.4, **look)
  axis.set_xticks(range(len(table)), [_schedule_name(shares) for shares in table.index])
  axis.grid(axis="x", visible=False)


def _draw_grid(axis: Axes, grid: pd.DataFrame, limits: tuple[float, float]) -> AxesImage:
  """Draws one sparsity's losses, dark where the loss is high."""
  image = axis.imshow(grid.to_numpy(), cmap=style.SHADES, vmin=limits[0], vmax=limits[1], origin="lower", aspect="auto")
  middle = 0.5 * (limits[0] + limits[1])
  best = divmod(int(np.nanargmin(grid.to_numpy())), grid.shape[1])
  for (row, column), loss in np.ndenumerate(grid.to_numpy()):
    weight = "bold" if (row, column) == best else "normal"
    text = "not run" if np.isnan(loss) else f"{loss:.3f}"
    axis.text(column, row, text, ha="center", va="center", weight=weight, color="white" if loss > middle else "black")
  axis.add_patch(_frame(*best))
  axis.set_xticks(range(grid.shape[1]), [f"{rate:g}" for rate in grid.columns])
  axis.set_yticks(range(grid.shape[0]), [style.compact(batch) for batch in grid.index])
  axis.grid(visible=False)
  return image


def _frame(row: int, column: int) -> Rectangle:
  return Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="black", linewidth=2)


def _draw_phase(axis: Axes, runs: pd.DataFrame, varied: int, sparsities: Sequence[float]) -> dict[float, float]:
  """Draws a line for each sparsity over the share that varies, and returns the best share of each."""
  if runs.empty:
    axis.text(0.5, 0.5, "not run", ha="center", va="center", transform=axis.transAxes)
    return {}
  table = _mean_loss(runs, (_FRACTIONS[varied],), "sparsity")
  for level, losses in table.items():
    known = losses.dropna()
    look = style.series(sparsities.index(level))
    axis.plot(100 * known.index.to_numpy(), known.to_numpy(), label=style.percent(level), **look)
  axis.set_xticks(100 * table.index.to_numpy())
  axis.set_xlabel(("dense share (% of compute)", "pruning share (% of compute)")[varied])
  return {float(level): float(share) for level, share in table.idxmin().items()}


def _share_limits(axes: Any, runs: pd.DataFrame, sizes: Sequence[float]) -> None:
  """The panels of one size have the same range of losses."""
  for row, size in enumerate(sizes):
    losses = runs["loss"][_rounded(runs["dense_params"]) == size]
    room = 0.08 * (losses.max() - losses.min() or 0.1)
    for axis in axes[2 * row : 2 * row + 2].flat:
      axis.set_ylim(losses.min() - room, losses.max() + room)


def _draw_legend(figure: Figure, axes: Sequence[Axes]) -> None:
  """One legend for all panels, because not every panel has runs of every sparsity."""
  entries: dict[str, Any] = {}
  for axis in axes:
    entries |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels())}
  ordered = sorted(entries, key=lambda label: float(label.split()[0]))
  handles = [entries[label] for label in ordered]
  figure.legend(handles=handles, title="sparsity", loc="outside upper center", ncols=len(handles))
