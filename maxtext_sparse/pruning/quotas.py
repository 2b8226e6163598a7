"""How many weights each array keeps after each event: exact integers, from shapes and rules alone.

Scope `global` has one number for all arrays of a rule. The others have one for each array, which its matrices share
evenly: with 10 weights for 3 matrices these keep 4, 3 and 3.
"""

from collections.abc import Sequence
import math

from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.rules import Block, PruningRule
from maxtext_sparse.schedule import keep_count, rule_densities

# [event][array], or [event][0] under scope global.
Quotas = tuple[tuple[int, ...], ...]


def quotas(rule: PruningRule, parameters: Sequence[Parameter], densities: Sequence[float]) -> Quotas:
  """Weights kept after each event; never rising, and multiples of a block's size where whole blocks go.

  Args:
    rule: how the arrays are pruned.
    parameters: the arrays.
    densities: of the rule's weights after each event, never rising.
  """
  unit = rule.structure.size if isinstance(rule.structure, Block) else 1
  total = sum(p.size for p in parameters)
  if rule.scope == "global":
    return tuple((keep_count(density, total, unit),) for density in densities)
  if rule.scope == "per_matrix":
    return tuple(
      tuple(p.num_matrices * keep_count(density, p.matrix_size, unit) for p in parameters) for density in densities
    )
  kept: list[tuple[int, ...]] = []
  for density in densities:
    most = kept[-1] if kept else tuple(p.size for p in parameters)
    shares = erk_densities(parameters, keep_count(density, total, unit) / total)
    exact = [share * p.size / unit for share, p in zip(shares, parameters)]
    counts = round_to_total(exact, keep_count(density, total, unit) // unit, [m // unit for m in most])
    kept.append(tuple(unit * count for count in counts))
  return tuple(kept)


def rule_quotas(rule: PruningRule, parameters: Sequence[Parameter], num_events: int) -> Quotas:
  """`quotas` along the rule's own curve."""
  return quotas(rule, parameters, rule_densities(rule, num_events))


def erk_densities(parameters: Sequence[Parameter], density: float) -> list[float]:
  """Density of each array's matrices under the Erdos-Renyi kernel scope (Evci et al. 2020).

  A matrix of n_in x n_out gets min(1, c (n_in + n_out) / (n_in n_out)), with the one c that meets the total density:
  large matrices are pruned most. What would exceed 1 is kept dense, and the rest shares what is left.

  Example: matrices 4 x 4 (raw 0.5) and 8 x 8 (raw 0.25) at a total of half of 80 weights: c (8 + 16) = 40, c = 5/3, hence
  0.833 and 0.417.
  """
  raw = [(p.num_in + p.num_out) / p.matrix_size for p in parameters]
  total_kept = density * sum(p.size for p in parameters)
  is_dense = [False] * len(parameters)
  while True:
    spent = sum(p.size for p, dense in zip(parameters, is_dense) if dense)
    weight = sum(r * p.size for r, p, dense in zip(raw, parameters, is_dense) if not dense)
    scale = (total_kept - spent) / weight if weight else 0.0
    over = [not dense and scale * r > 1.0 for r, dense in zip(raw, is_dense)]
    if not any(over):
      return [1.0 if dense else scale * r for r, dense in zip(raw, is_dense)]
    is_dense = [dense or o for dense, o in zip(is_dense, over)]


def round_to_total(exact: Sequence[float], total: int, most: Sequence[int]) -> list[int]:
  """Integers near `exact` that add up to `total`, none above `most`: the largest remainders are rounded up.

  Args:
    exact: numbers >= 0 that add up to about `total`.
    total: at most the sum of `most`.
    most: upper bounds.
  """
  counts = [min(math.floor(x), bound) for x, bound in zip(exact, most)]
  order = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
  missing = total - sum(counts)
  while missing:
    step = 1 if missing > 0 else -1
    for i in order:
      if missing and 0 <= counts[i] + step <= most[i]:
        counts[i] += step
        missing -= step
  return counts


def floor_counts(rule: PruningRule, parameters: Sequence[Parameter]) -> list[int]:
  """Fewest weights of each array under `min_matrix_density`, its matrices' floors added up."""
  return [p.num_matrices * math.ceil(round(rule.min_matrix_density * p.matrix_size, 6)) for p in parameters]
