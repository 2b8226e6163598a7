"""Figures 4, 5 and 6: sweeps over the pruning schedule, batch size and learning rate, start and duration of pruning."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plots import style
from maxtext_sparse.plots.runs import read_tables

_FRACTIONS = ("gmp_dense_fraction", "gmp_prune_fraction")
_LOSS = "final evaluation loss (nats per token)"
# The paper's schedule: shares of the compute spent dense and pruning.
_BEST = (0.25, 0.5)


def draw_schedules(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Figure 4: a panel for each training length, a group of bars for each schedule, a bar for each sparsity."""
  del laws
  runs = _sparse(read_tables(inputs, _FRACTIONS))
  lengths = sorted(runs["tokens"].unique())
  sparsities = sorted(runs["sparsity"].unique())
  figure, axes = style.panels(len(lengths), 1, width=7.5, height=2.9, sharey=True)
  numbers: dict[str, Any] = {}
  for axis, length in zip(axes[:, 0], lengths):
    table = _mean_loss(runs[runs["tokens"] == length], _FRACTIONS, "sparsity")
    _draw_bars(axis, table, sparsities)
    axis.set_title(f"{style.compact(length)} tokens", size=9)
    for level, losses in table.items():
      numbers[f"best_{style.compact(length)}_s{100 * level:g}"] = _schedule_name(losses.idxmin())
  # Bars start below the least loss: differences between schedules are a percent of it.
  low, high = runs["loss"].min(), runs["loss"].max()
  axes[0, 0].set_ylim(low - 0.15 * (high - low), high + 0.05 * (high - low))
  axes[-1, 0].set_xlabel("(dense %, pruning %) of the training compute; the loss axis does not start at 0")
  figure.legend(*axes[0, 0].get_legend_handles_labels(), title="sparsity", loc="outside right upper")
  return figure, numbers


def draw_rates(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Figure 5: a grid of losses over batch size and learning rate for each sparsity, the best one framed."""
  del laws
  runs = read_tables(inputs, ("learning_rate", "batch_tokens"))
  levels = sorted(runs["sparsity"].unique())
  # A cell holds a bold loss and its frame; an inch goes to the colour bar.
  width = max(2.6, 0.8 * runs["learning_rate"].nunique()) + 1.0 / len(levels)
  figure, axes = style.panels(1, len(levels), width=width, height=2.9, sharey=True)
  limits = runs["loss"].min(), runs["loss"].max()
  numbers = {}
  for axis, level in zip(axes[0], levels):
    grid = _mean_loss(runs[runs["sparsity"] == level], ("batch_tokens",), "learning_rate")
    image = _draw_grid(axis, grid, limits)
    axis.set_title(f"sparsity {style.percent(level)}", size=9)
    batch, rate = grid.stack().idxmin()
    numbers[f"best_s{100 * level:g}"] = f"learning rate {rate:g}, {style.compact(batch)} tokens a step"
  axes[0, 0].set_ylabel("batch size (tokens)")
  figure.supxlabel("learning rate (peak)", fontsize=9)
  figure.colorbar(image, ax=axes, label=_LOSS, shrink=0.9)
  return figure, numbers


def draw_phases(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Figure 6: loss over the start of pruning (50 % pruning) and over its duration (25 % dense), by training length."""
  del laws
  runs = _sparse(read_tables(inputs, _FRACTIONS))
  lengths = sorted(runs["tokens"].unique())
  figure, axes = style.panels(1, 2 * len(lengths), width=2.6, height=3.2, sharey=True)
  numbers: dict[str, Any] = {}
  views = ((0, "dense share (% of compute)", "start"), (1, "pruning share (% of compute)", "duration"))
  for position, (varied, label, name) in enumerate(views):
    for column, length in enumerate(lengths):
      axis = axes[0, position * len(lengths) + column]
      at_best = np.isclose(runs[_FRACTIONS[1 - varied]], _BEST[1 - varied])
      table = _mean_loss(runs[(runs["tokens"] == length) & at_best], (_FRACTIONS[varied],), "sparsity")
      _draw_lines(axis, table)
      axis.set(xlabel=label, title=f"{name}, {style.compact(length)} tokens")
      for level, losses in table.items():
        numbers[f"best_{name}_{style.compact(length)}_s{100 * level:g}"] = style.percent(losses.idxmin())
  axes[0, 0].set_ylabel(_LOSS)
  figure.legend(*axes[0, 0].get_legend_handles_labels(), title="sparsity", loc="outside right upper")
  return figure, numbers


def _sparse(runs: pd.DataFrame) -> pd.DataFrame:
  sparse = runs[runs["sparsity"] > 0]
  if sparse.empty:
    raise ConfigError("sparsity: all runs are dense, this figure is about pruning schedules")
  return sparse


def _mean_loss(runs: pd.DataFrame, rows: Sequence[str], columns: str) -> pd.DataFrame:
  """Mean loss over repeats; NaN where a combination was not run."""
  if runs.empty:
    raise ConfigError(
      f"{', '.join(rows)}: no run has the paper's other share, {_BEST[0]:g} dense or {_BEST[1]:g} pruning"
    )
  index = rows[0] if len(rows) == 1 else list(rows)
  return runs.pivot_table(values="loss", index=index, columns=columns, aggfunc="mean").sort_index()


def _schedule_name(shares: Any) -> str:
  return "({:g}, {:g})".format(*(100 * share for share in shares))


def _draw_bars(axis, table: pd.DataFrame, sparsities: Sequence[float]) -> None:
  width = 0.8 / len(sparsities)
  for index, level in enumerate(sparsities):
    if level not in table:
      continue
    places = np.arange(len(table)) + (index - (len(sparsities) - 1) / 2) * width
    look = {"color": style.colour(index), "hatch": style.HATCHES[index % len(style.HATCHES)], "edgecolor": "white"}
    axis.bar(places, table[level], width, label=style.percent(level), linewidth=0.4, **look)
  axis.set_xticks(range(len(table)), [_schedule_name(shares) for shares in table.index])
  axis.set_ylabel(_LOSS)
  axis.grid(axis="x", visible=False)


def _draw_grid(axis, grid: pd.DataFrame, limits: tuple[float, float]):
  image = axis.imshow(grid.to_numpy(), cmap="Greys", vmin=limits[0], vmax=limits[1], origin="lower", aspect="auto")
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


def _frame(row: int, column: int):
  from matplotlib.patches import Rectangle

  return Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="black", linewidth=2)


def _draw_lines(axis, table: pd.DataFrame) -> None:
  for index, (level, losses) in enumerate(table.items()):
    known = losses.dropna()
    axis.plot(100 * known.index.to_numpy(), known.to_numpy(), label=style.percent(level), **style.series(index))
  axis.set_xticks(100 * table.index.to_numpy())
