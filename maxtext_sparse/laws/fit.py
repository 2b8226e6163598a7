"""Fits a law to runs by the paper's protocol (section 5.3, after Hoffmann et al. 2022).

Objective: sum over runs of Huber(ln L_predicted - ln L), delta = 1e-3; L-BFGS, up to 1000 iterations, from 100 starts
drawn from the grid; the best of them is the fit. The sum, not the mean, and tolerances at rounding level: looser ones
stop far from the optimum.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import lbfgs
from maxtext_sparse.laws.forms import Law

HUBER_DELTA = 1e-3
NUM_STARTS = 100

# Lanes that run together; one size for every use, so that a law compiles once for a table.
_LANES = NUM_STARTS
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
  """

  law: Law
  theta: np.ndarray
  objective: float
  runs: pd.DataFrame
  good_starts: np.ndarray
  num_agreeing: int
  num_starts: int
  undetermined: tuple[str, ...]

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


def huber(residual: jax.Array, delta: float = HUBER_DELTA) -> jax.Array:
  """r^2 / 2 up to |r| = delta, delta (|r| - delta / 2) beyond."""
  size = jnp.abs(residual)
  return jnp.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


@functools.cache
def objective_of(terms: Callable[..., jax.Array]) -> lbfgs.Objective:
  """The fitted objective of a law's terms: (theta [p], weights [n], features [3, n], ln L [n]) -> scalar."""

  def objective(theta, weights, features, log_loss):
    predicted = jax.nn.logsumexp(terms(theta, *features), axis=0)
    return jnp.sum(weights * huber(predicted - log_loss))

  return objective


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
  theta, objective = minimise_from(law, runs, starts, np.ones((1, len(runs))))
  if not np.isfinite(objective).any():
    raise ConfigError(f"--law={law.name}: no start reached a finite objective, check the table's units")
  order = np.argsort(objective, kind="stable")
  best = objective[order[0]]
  is_best = objective <= best * (1 + _SAME_OPTIMUM) + _ZERO
  undetermined = _undetermined(law, theta[is_best])
  good_starts = starts[order[:_NUM_GOOD_STARTS]]
  return Fit(law, theta[order[0]], float(best), runs, good_starts, int(is_best.sum()), len(starts), undetermined)


def evaluate(law: Law, runs: pd.DataFrame, coefficients: Mapping[str, float]) -> Fit:
  """A law with given coefficients, published ones for example, on runs; nothing is optimised."""
  theta = law.theta(coefficients)
  residual = law.log_loss(theta, law.features(runs)) - np.log(runs["loss"].to_numpy())
  with jax.enable_x64(True):
    objective = float(jnp.sum(huber(jnp.asarray(residual))))
  return Fit(law, theta, objective, runs, theta[None], num_agreeing=0, num_starts=0, undetermined=())


def draw_starts(law: Law, num_starts: int | None, seed: int = 0) -> np.ndarray:
  """Initial values [s, p] from the law's grid; Hoffmann's has 4,500 points."""
  grid = law.start_grid()
  if num_starts is None or num_starts >= len(grid):
    return grid
  if num_starts < 1:
    raise ConfigError(f"--starts={num_starts}: must be a positive number or all")
  return grid[np.random.default_rng(seed).permutation(len(grid))[:num_starts]]


def minimise_from(law: Law, runs: pd.DataFrame, starts: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """L-BFGS from every start.

  Args:
    law: what to fit.
    runs: table of n rows.
    starts: [s, p].
    weights: [s, n] or [1, n], how often each run counts.

  Returns: theta [s, p] and objective [s], infinite where it is NaN.
  """
  weights = np.broadcast_to(weights, (len(starts), len(runs)))
  results = []
  # Locally: training must stay in 32 bits, and 1e-9 relative needs 64.
  with jax.enable_x64(True):
    features, log_loss = jnp.asarray(law.features(runs)), jnp.log(jnp.asarray(runs["loss"].to_numpy()))
    for begin in range(0, len(starts), _LANES):
      lanes = np.minimum(np.arange(begin, begin + _LANES), len(starts) - 1)
      state = lbfgs.minimise(
        objective_of(law.terms), jnp.asarray(starts[lanes]), jnp.asarray(weights[lanes]), features, log_loss
      )
      results.append((np.asarray(state.x), np.asarray(state.objective)))
  theta, objective = (np.concatenate(parts)[: len(starts)] for parts in zip(*results))
  return theta, np.where(np.isfinite(objective), objective, np.inf)


def _undetermined(law: Law, optima: np.ndarray) -> tuple[str, ...]:
  """Names of coefficients that take clearly different values at equally good optima [k, p]."""
  spread = np.ptp(optima, axis=0)
  scale = np.where([p.is_log for p in law.parameters], 1.0, np.maximum(np.abs(optima[0]), 1e-3))
  return tuple(p.name for p, is_loose in zip(law.parameters, spread > _PINNED * scale) if is_loose)
