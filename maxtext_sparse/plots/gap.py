"""How far sparse runs end from their dense twins, against the length of training."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.pairing import find_pairs, Repeats
from maxtext_sparse.laws.runs_table import read_runs
from maxtext_sparse.plots import style

# Neighbours of an average size are within this factor of it. Studies of a scaling law have sizes a factor of two apart.
_NEIGHBOUR = 2.1


def draw_gap(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Loss of the sparse run minus that of its twin against tokens for each weight, a curve for each sparsity.

  Each table is a study of its own: its sparse runs are compared with its own dense runs. Bars show the standard error
  over seeds, where there are several. Where models of several sizes have the same ratio of tokens to weights, each is a
  point, and the curve goes through their mean.
  """
  del laws
  groups = [group for path in inputs for group in find_pairs(read_runs(_table(path)), _NEIGHBOUR)]
  if not groups:
    raise ConfigError("gap: no sparse run has dense runs of as many tokens around its average_params, add them")
  figure, axes = style.panels(1, 1, width=5.6, height=3.8)
  axis = axes[0, 0]
  numbers: dict[str, Any] = {}
  for index, sparsity in enumerate(sorted({_sparsity(group) for group in groups})):
    curve = [group for group in groups if _sparsity(group) == sparsity]
    look = style.series(index)
    axis.plot([], [], label=style.percent(sparsity), **look)
    errors = [group.gap_error or 0.0 for group in curve] if any(group.gap_error for group in curve) else None
    points = [group.tokens_per_weight for group in curve], [group.gap for group in curve]
    axis.errorbar(*points, yerr=errors, capsize=3, **(look | {"linestyle": "none"}))
    means = _means(curve)
    axis.plot(list(means), list(means.values()), **(look | {"marker": ""}))
    numbers |= {f"gap_{100 * sparsity:g}_at_{length:.3g}": round(gap, 4) for length, gap in means.items()}
  axis.axhline(0.0, color="black", linewidth=1.0)
  axis.set_xscale("log")
  style.log_ticks(axis.xaxis, "{:g}".format, most=8)
  axis.set(xlabel="training tokens for each prunable weight", ylabel="sparse minus dense twin (nats per token)")
  axis.legend(title="sparsity")
  return figure, numbers


def _means(curve: Sequence[Repeats]) -> dict[float, float]:
  """Tokens for each weight, to three digits and rising -> mean gap of all sizes there."""
  gaps: dict[float, list[float]] = {}
  for group in sorted(curve, key=lambda group: group.tokens_per_weight):
    gaps.setdefault(float(f"{group.tokens_per_weight:.3g}"), []).append(group.gap)
  return {length: sum(of_sizes) / len(of_sizes) for length, of_sizes in gaps.items()}


def _table(path: str) -> str:
  if not path.endswith(".csv"):
    raise ConfigError(f"{path}: this figure is drawn from runs tables, give .csv files")
  return path


def _sparsity(group: Repeats) -> float:
  return float(group.first.sparse["sparsity"])
