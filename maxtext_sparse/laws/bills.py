"""What runs that reach one loss cost in training and serving, and from where on the sparse ones cost less."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, cast

import numpy as np

from maxtext_sparse.laws import Array
from maxtext_sparse.laws.fit import Fit
from maxtext_sparse.laws.predict import Candidate, candidate
from maxtext_sparse.plan.cost import serving_flops, training_flops

# A bill must be lower by more than this share to win, because a grid of runs is not finer.
TIE = 1e-3
_LOG_TOKENS = (math.log(1e3), math.log(1e21))
# Halves the interval of ln D, 41 wide, to 1e-12.
_NUM_BISECTIONS = 45
_NUM_SERVED = 600


@dataclasses.dataclass(frozen=True)
class Quality:
  """What all compared runs have in common.

  Attributes:
    fit: the law that predicts them.
    loss: the loss that they reach.
    schedule: their sparsity keys that differ from the defaults.
    break_even_density: density at which the engine's sparse kernel is as fast as its dense one: 1 if it profits from
      every zero, 0 if it profits from none.
    trains_dense: whether training is billed at 6 N_dense D, as hardware that multiplies the zeros needs it.
  """

  fit: Fit
  loss: float
  schedule: Mapping[str, Any]
  break_even_density: float
  trains_dense: bool = False


@dataclasses.dataclass(frozen=True)
class Bills:
  """Runs that reach the quality, with their bills; all arrays [m].

  Attributes:
    dense_params: weights before pruning.
    sparsity: S.
    average_density: mean density over the steps.
    tokens: D that reaches the quality; infinite if no D does.
    serving: FLOPs to serve one token.
    trains_dense: whether training is billed with the zeros.
  """

  dense_params: Array
  sparsity: Array
  average_density: Array
  tokens: Array
  serving: Array
  trains_dense: bool

  @property
  def training(self) -> Array:
    """6 N_avg D, or 6 N_dense D if zeros are billed too [m]."""
    billed = self.dense_params if self.trains_dense else self.dense_params * self.average_density
    return training_flops(1.0, 1.0) * billed * self.tokens

  def run(self, place: int) -> Candidate:
    """One of the runs."""
    values = (self.dense_params, self.sparsity, self.average_density, self.tokens)
    return Candidate(*(float(value[place]) for value in values))

  def totals(self, served: Array, is_sparse: bool) -> Array:
    """The least bill of all dense or all sparse runs [q] for numbers of tokens served [q]; infinite if there is none."""
    chosen = (self.sparsity > 0) == is_sparse
    if not chosen.any():
      return np.full(len(served), np.inf)
    bills = self.training[chosen][:, None] + self.serving[chosen][:, None] * served
    return cast(Array, bills.min(axis=0))

  def sparse_wins(self, served: Array) -> Any:
    """Whether the cheapest sparse run costs clearly less than the cheapest dense one [q]."""
    return self.totals(served, is_sparse=True) < self.totals(served, is_sparse=False) * (1.0 - TIE)

  def best(self, served: float, is_sparse: bool) -> int | None:
    """The place of the cheapest dense or sparse run; None if no such run reaches the quality."""
    total = np.where((self.sparsity > 0) == is_sparse, self.training + self.serving * served, np.inf)
    place = int(np.argmin(total))
    return place if np.isfinite(total[place]) else None


def make_bills(quality: Quality, sizes: Array, sparsities: Sequence[float], max_final_params: float) -> Bills:
  """Bills of every size with every sparsity; a size whose final size would exceed the cap becomes the cap's."""
  dense, sparsity = (axis.ravel() for axis in np.meshgrid(sizes, sparsities))
  dense = np.minimum(dense, max_final_params / (1.0 - sparsity))
  density_of = {s: candidate(1.0, s, 1.0, quality.schedule).average_density for s in np.unique(sparsity)}
  density = np.array([density_of[s] for s in sparsity])
  columns = {"dense_params": dense, "average_params": dense * density, "final_params": dense * (1.0 - sparsity)}
  tokens = _tokens_to_reach(quality, columns | {"sparsity": sparsity})
  return Bills(
    dense, sparsity, density, tokens, serving_cost(dense, sparsity, quality.break_even_density), quality.trains_dense
  )


def serving_cost(dense_params: Array, sparsity: Array, break_even_density: float) -> Array:
  """FLOPs to serve one token [m]: 2 N_dense min(1, (1 - S) / d*), with d* the break-even density."""
  if break_even_density == 0:
    return serving_flops(1.0, 1.0) * dense_params
  served = dense_params * np.minimum(1.0, (1.0 - sparsity) / break_even_density)
  return cast(Array, serving_flops(1.0, 1.0) * served)


def break_even_tokens(bills: Bills) -> float:
  """Tokens served from which on the cheapest sparse run costs less than the cheapest dense one; infinite if never.

  A sparse run that wins only while few tokens are served, with an engine that does not profit from zeros, does not count.
  """
  served = np.concatenate([[0.0], served_grid(bills)])
  won = bills.sparse_wins(served)
  if not won[-1]:
    return math.inf
  if won.all():
    return 0.0
  last_lost = int(np.flatnonzero(~won)[-1])
  low, high = served[last_lost], served[last_lost + 1]
  for _ in range(_NUM_BISECTIONS):
    middle = 0.5 * (low + high)
    low, high = (low, middle) if bills.sparse_wins(np.array([middle]))[0] else (middle, high)
  return float(high)


def served_grid(bills: Bills, asked: float = 0.0) -> Array:
  """Tokens served around the number for which serving costs as much as training."""
  place = bills.best(0.0, is_sparse=False)
  assert place is not None
  equal = float(bills.training[place] / bills.serving[place])
  return np.geomspace(min(1e-3 * equal, asked or math.inf), max(1e4 * equal, asked), _NUM_SERVED)


def _tokens_to_reach(quality: Quality, columns: dict[str, Array]) -> Array:
  """D [m] with which runs reach the loss, by bisection in ln D; infinite if even 1e21 tokens do not."""
  law, theta, target = quality.fit.law, quality.fit.theta, math.log(quality.loss)
  # The logs of all terms are straight lines in ln D, so two evaluations give them for every D.
  features = law.features(columns | {"tokens": np.ones(len(columns["sparsity"]))})
  at_one = law.terms(theta, *features)
  features[1] += 1.0
  slope = law.terms(theta, *features) - at_one

  def reaches(log_tokens: Array) -> Any:
    return np.logaddexp.reduce(at_one + slope * log_tokens, axis=0) <= target

  low, high = (np.full(features.shape[1], end) for end in _LOG_TOKENS)
  is_reached = reaches(high)
  for _ in range(_NUM_BISECTIONS):
    middle = 0.5 * (low + high)
    is_enough = reaches(middle)
    low, high = np.where(is_enough, low, middle), np.where(is_enough, middle, high)
  return np.where(is_reached, np.exp(high), np.inf)
