"""How far a fit can be trusted: bootstrap over runs, prediction intervals, errors on a sparsity left out of the fit."""

import dataclasses

import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.fit import at_optimum, Fit, minimise_from

# Share of predictions that an interval should hold.
LEVEL = 0.90

# Quantiles of a normal distribution one standard deviation below and above its mean.
_ONE_SIGMA = (0.158655, 0.841345)
_MAX_REDRAWS = 100


@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """Fits to resampled runs.

  Attributes:
    fit: the fit to all runs.
    thetas: optimised values [b, p], one row for each resample.
    seed: of the resampling.
  """

  fit: Fit
  thetas: np.ndarray
  seed: int

  def standard_errors(self) -> dict[str, float]:
    """Half the width of the central 68.27 % of each coefficient over the resamples.

    That is the standard deviation of a normal distribution; a plain standard deviation of A or B, whose logarithm is
    what varies, is set by the one or two largest resamples.
    """
    samples = pd.DataFrame([self.fit.law.coefficients(theta) for theta in self.thetas])
    with np.errstate(invalid="ignore"):
      low, high = np.quantile(samples, _ONE_SIGMA, axis=0)
      return dict(zip(samples.columns, (0.5 * (high - low)).tolist()))

  def draws(self, runs) -> np.ndarray:
    """Losses [b, n] that runs may turn out with.

    Each is predicted by one resample's fit and carries the residual, ln L - ln L_predicted, of a run drawn at random: the
    spread holds both the uncertainty of the coefficients and the scatter of runs about the law. Equal runs get equal
    draws.
    """
    fit = self.fit
    residuals = np.log(fit.runs["loss"].to_numpy()) - np.log(fit.predict(fit.runs))
    features, places = np.unique(fit.law.features(runs), axis=1, return_inverse=True)
    predicted = np.exp(fit.law.log_loss(self.thetas, features))
    scatter = np.random.default_rng(self.seed + 1).choice(residuals, size=predicted.shape)
    return (predicted * np.exp(scatter))[:, places]


def bootstrap(fit: Fit, num_resamples: int, seed: int = 0) -> Bootstrap:
  """Fits the law to `num_resamples` tables of as many runs drawn with replacement.

  Each resample starts from the fit to all runs and from the start that had led there.

  Raises:
    ConfigError: fewer than 2 resamples, or the runs are so few that resamples cannot determine the law.
  """
  if num_resamples < 2:
    raise ConfigError(f"--bootstrap={num_resamples}: must be at least 2")
  generator = np.random.default_rng(seed)
  weights = np.stack([_resample(fit, generator) for _ in range(num_resamples)])
  starts = np.stack([fit.theta, fit.good_starts[0]])
  theta, objective = minimise_from(
    fit.law, fit.runs, np.tile(starts, (num_resamples, 1)), np.repeat(weights, len(starts), axis=0)
  )
  theta, objective = theta.reshape(num_resamples, len(starts), -1), objective.reshape(num_resamples, len(starts))
  return Bootstrap(fit, theta[np.arange(num_resamples), np.argmin(objective, axis=1)], seed)


def _resample(fit: Fit, generator: np.random.Generator) -> np.ndarray:
  """How often each run is drawn [n], redrawn until the law is determined."""
  num_runs = len(fit.runs)
  for _ in range(_MAX_REDRAWS):
    rows = generator.integers(num_runs, size=num_runs)
    try:
      fit.law.check_identifiable(fit.runs.iloc[rows])
    except ConfigError:
      continue
    return np.bincount(rows, minlength=num_runs).astype(np.float64)
  raise ConfigError(f"--bootstrap: resamples of these {num_runs} runs do not determine the law {fit.law.name}, add runs")


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Ends [n] of the central `LEVEL` interval of draws [b, n]."""
  low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
  return low, high


def leave_one_sparsity_out(fit: Fit) -> dict[str, float | None]:
  """Sparsity, as text, -> mean absolute error on its runs of a fit to all other runs.

  The mean over fits with the same objective, where the other runs leave coefficients open; None where they cannot
  determine the law.
  """
  sparsity = fit.runs["sparsity"].to_numpy()
  errors: dict[str, float | None] = {}
  for level in np.unique(sparsity):
    is_held = sparsity == level
    try:
      fit.law.check_identifiable(fit.runs[~is_held])
    except ConfigError:
      errors[f"{level:g}"] = None
      continue
    starts = np.concatenate([fit.theta[None], fit.good_starts])
    theta, objective = minimise_from(fit.law, fit.runs[~is_held], starts)
    held = fit.runs[is_held]
    predicted = fit.law.predict(theta[at_optimum(objective)], held)
    errors[f"{level:g}"] = float(np.abs(predicted - held["loss"].to_numpy()).mean())
  return errors


def held_out_mae(fit: Fit, errors: dict[str, float | None]) -> float | None:
  """Mean over all runs of the error that each had when its sparsity was left out; None if one could not be."""
  if any(error is None for error in errors.values()):
    return None
  counts = fit.runs["sparsity"].map(lambda level: f"{level:g}").value_counts()
  return float(sum(counts[level] * error for level, error in errors.items() if error is not None) / len(fit.runs))
