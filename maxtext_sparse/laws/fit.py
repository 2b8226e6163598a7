"""Fits a law to runs by the paper's protocol (section 5.3, after Hoffmann et al. 2022).

Objective: the sum over runs of weight x Huber(ln L_predicted - ln L), with delta = 1e-3. L-BFGS minimises it with up to
1,000 iterations from 100 starts that are drawn from a grid, and the best end point is the fit. It is the sum, not the
mean, and the tolerances are at rounding level: looser ones stop far from the optimum.
"""

from collections.abc import Mapping
import dataclasses
from typing import cast

import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import Array, lbfgs
from maxtext_sparse.laws.law import Law, Runs

HUBER_DELTA = 1e-3
NUM_STARTS = 100

# Starts that run together. With this many, the terms of 100 runs stay in the processor's cache.
_LANES = 128
_NUM_GOOD_STARTS = 16
# Starts that end within this of the best objective, relatively and absolutely, have found the same optimum.
_SAME_OPTIMUM = 1e-9
_ZERO = 1e-15
# Coefficients that differ by more than this (relatively) between such starts are not determined by the runs.
_PINNED = 1e-2


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fitted law.

  Attributes:
    law: what was fitted.
    theta: optimised values [p].
    objective: sum of weighted Huber losses at theta.
    runs: the table that it was fitted to.
    good_starts: initial values [k, p] of the starts that ended best, best first; where to begin on similar data.
    num_agreeing: starts that reached the same objective, of `num_starts`.
    num_starts: starts tried; 0 if nothing was fitted.
    undetermined: coefficients that differ between starts with the same objective.
    spread: the most that such starts differ by in the predicted loss of a fitted run.
  """

  law: Law
  theta: Array
  objective: float
  runs: pd.DataFrame
  good_starts: Array
  num_agreeing: int
  num_starts: int
  undetermined: tuple[str, ...] = ()
  spread: float = 0.0

  @property
  def coefficients(self) -> dict[str, float]:
    return self.law.coefficients(self.theta)

  def predict(self, runs: Runs) -> Array:
    """Predicted loss [n] of runs given as a table or as a mapping of columns."""
    return self.law.predict(self.theta, runs)

  @property
  def errors(self) -> Array:
    """Absolute error of the predicted loss [n] on the fitted runs."""
    return cast(Array, np.abs(self.predict(self.runs) - self.runs["loss"].to_numpy()))

  @property
  def mae(self) -> float:
    """Mean absolute error in units of the loss, weighted as the fit is."""
    return float(np.average(self.errors, weights=row_weights(self.runs)))

  def mae_by_sparsity(self) -> dict[str, float]:
    """Sparsity, as text, -> mean absolute error over the runs that have it."""
    table = pd.DataFrame({"error": self.errors, "weight": row_weights(self.runs)})
    groups = table.groupby(self.runs["sparsity"].to_numpy())
    return {f"{level:g}": float(np.average(part["error"], weights=part["weight"])) for level, part in groups}


def row_weights(runs: pd.DataFrame) -> Array:
  """How much each run counts [n]: its `weight`, or 1 where the table has no such column."""
  if "weight" in runs:
    return cast(Array, runs["weight"].to_numpy(dtype=np.float64))
  return np.ones(len(runs))


def huber(residual: Array, delta: float = HUBER_DELTA) -> Array:
  """r^2 / 2 up to |r| = delta, and delta (|r| - delta / 2) beyond."""
  clipped = np.clip(residual, -delta, delta)
  return cast(Array, clipped * (residual - 0.5 * clipped))


class Objective:
  """What is minimised, with its gradient, for many theta at once.

  With z_k = offset_k + slope_k theta the logs of the law's terms and r = logsumexp_k z_k - ln L:
    f = sum_n w huber(r)
    df / dtheta = sum_n w clip(r, -delta, delta) sum_k softmax_k(z) slope_k
  """

  def __init__(self, law: Law, runs: pd.DataFrame, num_lanes: int, weights: Array):
    """Prepares the terms.

    Args:
      law: what is fitted.
      runs: table of n rows.
      num_lanes: rows of theta at most.
      weights: how much each run counts in each lane, [num_lanes, n] or [1, n] for all lanes alike.
    """
    self._offsets, slopes = law.linear_terms(law.features(runs))
    self._slopes = slopes.reshape(-1, slopes.shape[-1])
    self._log_loss = np.log(runs["loss"].to_numpy())
    self._weights = np.broadcast_to(weights, (num_lanes, len(runs)))
    # Kept from call to call: to get fresh memory from the system costs as much as the arithmetic.
    self._terms = np.empty((num_lanes, *self._offsets.shape))

  def __call__(self, theta: Array, lanes: lbfgs.Indices) -> tuple[Array, Array]:
    """Objective [b] and gradient [b, p] at theta [b, p], whose rows belong to `lanes` [b]."""
    z = self._terms[: len(theta)]
    flat = z.reshape(len(theta), -1)
    np.matmul(theta, self._slopes.T, out=flat)
    z += self._offsets
    largest = z.max(axis=1)
    z -= largest[:, None]
    np.exp(z, out=z)
    total = z.sum(axis=1)
    residual = np.log(total) + largest - self._log_loss
    weights = self._weights[lanes]
    loss = weights * huber(residual)
    z *= (weights * np.clip(residual, -HUBER_DELTA, HUBER_DELTA) / total)[:, None]
    return loss.sum(axis=1), flat @ self._slopes


def fit(law: Law, runs: pd.DataFrame, num_starts: int | None = NUM_STARTS, seed: int = 0) -> Fit:
  """Fits a law.

  Args:
    law: what to fit.
    runs: a checked table (`read_runs`).
    num_starts: starts drawn from the grid without replacement; None for all of it.
    seed: of the draw.

  Raises:
    ConfigError: too few runs, or runs that cannot determine a coefficient.
  """
  law = law.for_runs(runs)
  law.check_identifiable(runs)
  starts = draw_starts(law, num_starts, seed)
  theta, objective = minimise_from(law, runs, starts)
  if not np.isfinite(objective).any():
    raise ConfigError(f"--law={law.name}: no start reached a finite objective, check the table's units")
  order = np.argsort(objective, kind="stable")
  optima = theta[at_optimum(objective)]
  return Fit(
    law=law,
    theta=theta[order[0]],
    objective=float(objective[order[0]]),
    runs=runs,
    good_starts=starts[order[:_NUM_GOOD_STARTS]],
    num_agreeing=len(optima),
    num_starts=len(starts),
    undetermined=_undetermined(law, optima),
    spread=float(np.ptp(law.predict(optima, runs), axis=0).max()),
  )


def at_optimum(objective: Array) -> lbfgs.Flags:
  """Which of the objectives [s] equal the least one, to rounding."""
  return cast(lbfgs.Flags, objective <= objective.min() * (1 + _SAME_OPTIMUM) + _ZERO)


def evaluate(law: Law, runs: pd.DataFrame, coefficients: Mapping[str, float]) -> Fit:
  """A law with given coefficients, for example published ones, on runs. Nothing is optimised."""
  law = law.for_runs(runs)
  theta = law.theta(coefficients)
  residual = law.log_loss(theta, law.features(runs)) - np.log(runs["loss"].to_numpy())
  objective = float((row_weights(runs) * huber(residual)).sum())
  return Fit(law, theta, objective, runs, theta[None], num_agreeing=0, num_starts=0)


def draw_starts(law: Law, num_starts: int | None, seed: int = 0) -> Array:
  """Initial values [s, p] from the law's grid; Hoffmann's has 4,500 points."""
  grid = law.start_grid()
  if num_starts is None or num_starts >= len(grid):
    return grid
  if num_starts < 1:
    raise ConfigError(f"--starts={num_starts}: must be a positive number or all")
  return cast(Array, grid[np.random.default_rng(seed).permutation(len(grid))[:num_starts]])


def minimise_from(law: Law, runs: pd.DataFrame, starts: Array, counts: Array | None = None) -> tuple[Array, Array]:
  """Runs L-BFGS from every start.

  Args:
    law: what to fit.
    runs: table of n rows.
    starts: [s, p].
    counts: how often each run counts for each start [s, n], on top of its weight; None for once.

  Returns:
    theta [s, p], and the objective [s]: infinite where no finite one was found.
  """
  weights = row_weights(runs)[None]
  results = []
  for begin in range(0, len(starts), _LANES):
    lanes = slice(begin, begin + _LANES)
    in_lanes = weights if counts is None else weights * counts[lanes]
    objective = Objective(law, runs, len(starts[lanes]), in_lanes)
    results.append(lbfgs.minimise(objective, starts[lanes]))
  theta, least = zip(*results)
  return np.concatenate(theta), np.concatenate(least)


def _undetermined(law: Law, optima: Array) -> tuple[str, ...]:
  """Names of coefficients that take clearly different values at equally good optima [k, p]."""
  spread = np.ptp(optima, axis=0)
  scale = np.where([p.is_log for p in law.parameters], 1.0, np.maximum(np.abs(optima[0]), 1e-3))
  return tuple(p.name for p, is_loose in zip(law.parameters, spread > _PINNED * scale) if is_loose)
