"""Fits a law to runs by the paper's protocol (section 5.3, after Hoffmann et al. 2022).

Objective: sum over runs of Huber(ln L_predicted - ln L), delta = 1e-3; L-BFGS, up to 1000 iterations, from 100 starts
drawn from the grid; the best of them is the fit. The sum, not the mean, and tolerances at rounding level: looser ones
stop far from the optimum.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import lbfgs
from maxtext_sparse.laws.forms import Law

HUBER_DELTA = 1e-3
NUM_STARTS = 100

# Starts that run together: their terms stay in the cache.
_LANES = 128
_NUM_GOOD_STARTS = 16
# Starts within this of the best objective, relatively and absolutely, have found the optimum.
_SAME_OPTIMUM = 1e-9
_ZERO = 1e-15
# Coefficients (relative) that differ by more between such starts are not determined by the runs.
_PINNED = 1e-2


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fitted law.

  Attributes:
    law: what was fitted.
    theta: optimised values [p].
    objective: sum of Huber losses at theta.
    runs: the table it was fitted to.
    good_starts: initial values [k, p] of the starts that ended best, best first; where to begin on similar data.
    num_agreeing: starts that reached the same objective, of `num_starts`.
    num_starts: starts tried.
    undetermined: coefficients that differ between starts with the same objective.
    spread: most that these starts differ by in the predicted loss of a fitted run.
  """

  law: Law
  theta: np.ndarray
  objective: float
  runs: pd.DataFrame
  good_starts: np.ndarray
  num_agreeing: int
  num_starts: int
  undetermined: tuple[str, ...] = ()
  spread: float = 0.0

  @property
  def coefficients(self) -> dict[str, float]:
    return self.law.coefficients(self.theta)

  def predict(self, runs) -> np.ndarray:
    """Predicted loss [n] of runs given as a table or as a dict of columns."""
    return self.law.predict(self.theta, runs)

  @property
  def errors(self) -> np.ndarray:
    """Absolute error of the predicted loss [n] on the fitted runs."""
    return np.abs(self.predict(self.runs) - self.runs["loss"].to_numpy())

  @property
  def mae(self) -> float:
    """Mean absolute error in units of the loss."""
    return float(self.errors.mean())

  def mae_by_sparsity(self) -> dict[str, float]:
    """Sparsity, as text, -> mean absolute error over the runs that have it."""
    means = pd.Series(self.errors).groupby(self.runs["sparsity"].to_numpy()).mean()
    return {f"{sparsity:g}": float(error) for sparsity, error in means.items()}


def huber(residual: np.ndarray, delta: float = HUBER_DELTA) -> np.ndarray:
  """r^2 / 2 up to |r| = delta, delta (|r| - delta / 2) beyond."""
  clipped = np.clip(residual, -delta, delta)
  return clipped * (residual - 0.5 * clipped)


class Objective:
  """What is minimised, with its gradient, for many theta at once.

  With z_k = offset_k + slope_k theta the logs of the law's terms and r = logsumexp_k z_k - ln L:
    f = sum_n w huber(r)
    df / dtheta = sum_n w clip(r, -delta, delta) sum_k softmax_k(z) slope_k

  Args:
    law: what is fitted.
    runs: table of n rows.
    num_lanes: rows of theta at most.
    weights: [num_lanes, n], how often each run counts in each lane; None for once.
  """

  def __init__(self, law: Law, runs: pd.DataFrame, num_lanes: int, weights: np.ndarray | None = None):
    self._offsets, slopes = law.linear_terms(law.features(runs))
    self._slopes = slopes.reshape(-1, slopes.shape[-1])
    self._log_loss = np.log(runs["loss"].to_numpy())
    self._weights = weights
    # Kept from call to call: memory fresh from the system costs as much as the arithmetic.
    self._terms = np.empty((num_lanes, *self._offsets.shape))

  def __call__(self, theta: np.ndarray, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    weights = 1.0 if self._weights is None else self._weights[lanes]
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
    ConfigError: too few runs, or runs that cannot determine a parameter.
  """
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


def at_optimum(objective: np.ndarray) -> np.ndarray:
  """Which of the objectives [s] are the least one, to rounding."""
  return objective <= objective.min() * (1 + _SAME_OPTIMUM) + _ZERO


def evaluate(law: Law, runs: pd.DataFrame, coefficients: Mapping[str, float]) -> Fit:
  """A law with given coefficients, published ones for example, on runs; nothing is optimised."""
  theta = law.theta(coefficients)
  residual = law.log_loss(theta, law.features(runs)) - np.log(runs["loss"].to_numpy())
  return Fit(law, theta, float(huber(residual).sum()), runs, theta[None], num_agreeing=0, num_starts=0)


def draw_starts(law: Law, num_starts: int | None, seed: int = 0) -> np.ndarray:
  """Initial values [s, p] from the law's grid; Hoffmann's has 4,500 points."""
  grid = law.start_grid()
  if num_starts is None or num_starts >= len(grid):
    return grid
  if num_starts < 1:
    raise ConfigError(f"--starts={num_starts}: must be a positive number or all")
  return grid[np.random.default_rng(seed).permutation(len(grid))[:num_starts]]


def minimise_from(
  law: Law, runs: pd.DataFrame, starts: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """L-BFGS from every start.

  Args:
    law: what to fit.
    runs: table of n rows.
    starts: [s, p].
    weights: [s, n], how often each run counts; None for once.

  Returns: theta [s, p] and objective [s], infinite where no finite one was found.
  """
  results = []
  for begin in range(0, len(starts), _LANES):
    lanes = slice(begin, begin + _LANES)
    objective = Objective(law, runs, len(starts[lanes]), None if weights is None else weights[lanes])
    results.append(lbfgs.minimise(objective, starts[lanes]))
  theta, least = zip(*results)
  return np.concatenate(theta), np.concatenate(least)


def _undetermined(law: Law, optima: np.ndarray) -> tuple[str, ...]:
  """Names of coefficients that take clearly different values at equally good optima [k, p]."""
  spread = np.ptp(optima, axis=0)
  scale = np.where([p.is_log for p in law.parameters], 1.0, np.maximum(np.abs(optima[0]), 1e-3))
  return tuple(p.name for p, is_loose in zip(law.parameters, spread > _PINNED * scale) if is_loose)
