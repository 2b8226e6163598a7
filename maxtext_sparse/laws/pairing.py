"""Pairs sparse runs of a table with dense runs of their average size, which is the comparison of the paper's Figure 1."""

from collections.abc import Sequence
import dataclasses
import math
import statistics

import numpy as np
import pandas as pd

# Sizes and lengths that differ by at most this share count as equal.
_SAME = 0.02
# What differs between the seeds of one run.
_OF_A_SEED = ("run", "seed", "loss")


@dataclasses.dataclass(frozen=True)
class Pair:
  """A sparse run and the dense run of its average size.

  Attributes:
    sparse: row of the sparse run.
    twin_size: parameters of the dense run.
    twin_loss: its final loss.
    is_interpolated: whether two neighbours stand in for it.
  """

  sparse: pd.Series
  twin_size: float
  twin_loss: float
  is_interpolated: bool

  @property
  def gap(self) -> float:
    """Loss of the sparse run minus that of its twin."""
    return float(self.sparse["loss"] - self.twin_loss)


@dataclasses.dataclass(frozen=True)
class Repeats:
  """The pairs that differ in their seed alone.

  Attributes:
    pairs: at least one.
  """

  pairs: tuple[Pair, ...]

  @property
  def first(self) -> Pair:
    """Stands for all where they do not differ."""
    return self.pairs[0]

  @property
  def sparse_loss(self) -> float:
    """Mean loss of the sparse runs."""
    return statistics.fmean(float(pair.sparse["loss"]) for pair in self.pairs)

  @property
  def twin_loss(self) -> float:
    """Mean loss of the twins."""
    return statistics.fmean(pair.twin_loss for pair in self.pairs)

  @property
  def gap(self) -> float:
    """Mean gap."""
    return statistics.fmean(pair.gap for pair in self.pairs)

  @property
  def gap_error(self) -> float | None:
    """Standard error of the mean gap: 0.012, 0.018 and 0.015 give 0.0017. None with a single seed."""
    if len(self.pairs) < 2:
      return None
    return statistics.stdev(pair.gap for pair in self.pairs) / math.sqrt(len(self.pairs))

  @property
  def tokens_per_weight(self) -> float:
    """Training tokens for each weight of the dense model, before pruning."""
    return float(self.first.sparse["tokens"] / self.first.sparse["dense_params"])


def find_pairs(table: pd.DataFrame, within: float) -> list[Repeats]:
  """Every sparse run that has a dense twin, with it; runs that differ in their seed alone are together.

  The twin has the sparse run's tokens, and its seed if the table has a column `seed`. Where no dense run has the sparse
  run's average size, the loss is interpolated between its two neighbours (paper, footnote 1), linearly in log N: a power
  law is close to a straight line there, so that distant neighbours do no harm.

  Args:
    table: runs of one study; runs on other text are no twins.
    within: largest factor between the average size and a neighbour's.
  """
  dense = table[table["sparsity"] == 0]
  groups: dict[tuple[object, ...], list[Pair]] = {}
  settings = [column for column in table.columns if column not in _OF_A_SEED]
  for _, sparse in table[table["sparsity"] > 0].sort_values(["sparsity", "dense_params"]).iterrows():
    alike = dense[is_near(dense["tokens"], sparse["tokens"])]
    if "seed" in table:
      alike = alike[alike["seed"] == sparse["seed"]]
    pair = _pair(sparse, alike, within)
    if pair is not None:
      groups.setdefault(tuple(str(sparse[column]) for column in settings), []).append(pair)
  return [Repeats(tuple(pairs)) for pairs in groups.values()]


def is_near(value: "pd.Series | float", other: float) -> "pd.Series | bool":
  """Whether sizes or lengths are the same but for rounding."""
  return abs(value / other - 1) <= _SAME


def _pair(sparse: pd.Series, dense: pd.DataFrame, within: float) -> Pair | None:
  """The run with its twin among dense runs of its length; None if neither one nor two neighbours are there."""
  size = float(sparse["average_params"])
  near = dense[dense["dense_params"].between(size / within, size * within)]
  # Dense runs of one size, such as those of several learning rates, count as one.
  losses = near.groupby("dense_params")["loss"].mean().sort_index()
  sizes = losses.index.to_numpy(dtype=float)
  if not len(sizes):
    return None
  nearest = int(np.argmin(np.abs(np.log(sizes / size))))
  if is_near(float(sizes[nearest]), size):
    return Pair(sparse, float(sizes[nearest]), float(losses.iloc[nearest]), is_interpolated=False)
  if not sizes.min() < size < sizes.max():
    return None
  loss = float(np.interp(np.log(size), np.log(sizes), losses.to_numpy(dtype=float)))
  return Pair(sparse, size, loss, is_interpolated=True)


def label_gaps(groups: Sequence[Repeats]) -> dict[str, float]:
  """Numbers for a report: the gap of each pair, and mean and standard error where there are several seeds."""
  numbers: dict[str, float] = {}
  for group in groups:
    numbers |= {f"sparse_minus_dense_{pair.sparse['run']}": round(pair.gap, 4) for pair in group.pairs}
    if group.gap_error is not None:
      name = f"{100 * group.first.sparse['sparsity']:g}_{len(group.pairs)}_seeds"
      numbers |= {f"mean_{name}": round(group.gap, 4), f"standard_error_{name}": round(group.gap_error, 4)}
  return numbers
