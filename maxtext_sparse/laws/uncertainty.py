"""How far a fit can be trusted: bootstrap over runs, prediction intervals, errors on runs left out of the fit."""

from collections.abc import Mapping
import dataclasses
from typing import cast

import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import Array, lbfgs
from maxtext_sparse.laws.fit import at_optimum, Fit, minimise_from, row_weights
from maxtext_sparse.laws.law import Runs

# Share of predictions that an interval should hold.
LEVEL = 0.90

# Quantiles of a normal distribution one standard deviation below and above its mean.
_ONE_SIGMA = (0.158655, 0.841345)
_MOST_RESAMPLES = 100_000
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
  thetas: Array
  seed: int

  def coefficients(self) -> pd.DataFrame:
    """The equation's coefficients, a row for each resample."""
    return pd.DataFrame([self.fit.law.coefficients(theta) for theta in self.thetas])

  def standard_errors(self) -> dict[str, float]:
    """Half the width of the central 68.27 % of each coefficient over the resamples.

    For a normal distribution that is the standard deviation. A plain standard deviation of A or B, whose logarithms
    are what varies, would be set by the one or two largest resamples.
    """
    samples = self.coefficients()
    with np.errstate(invalid="ignore"):
      low, high = np.quantile(samples, _ONE_SIGMA, axis=0)
      return dict(zip(samples.columns, (0.5 * (high - low)).tolist()))

  def draws(self, runs: Runs) -> Array:
    """Losses [b, n] that runs may turn out with.

    Each draw is the prediction of one resample's fit plus the residual, ln L - ln L_predicted, of a run drawn at random.
    So the spread holds both the uncertainty of the coefficients and the scatter of runs about the law. Equal runs get
    equal draws.
    """
    fit = self.fit
    residuals = np.log(fit.runs["loss"].to_numpy()) - np.log(fit.predict(fit.runs))
    features, places = np.unique(fit.law.features(runs), axis=1, return_inverse=True)
    predicted = np.exp(fit.law.log_loss(self.thetas, features))
    scatter = np.random.default_rng(self.seed + 1).choice(residuals, size=predicted.shape)
    return cast(Array, (predicted * np.exp(scatter))[:, places])


def check_resamples(num_resamples: int) -> None:
  """Raises ConfigError for a number of resamples that says nothing, or that would take hours."""
  if num_resamples < 2:
    raise ConfigError(f"--bootstrap={num_resamples}: must be at least 2")
  if num_resamples > _MOST_RESAMPLES:
    raise ConfigError(f"--bootstrap={num_resamples}: must be at most {_MOST_RESAMPLES}")


def bootstrap(fit: Fit, num_resamples: int, seed: int = 0) -> Bootstrap:
  """Fits the law to `num_resamples` tables of as many runs, drawn with replacement.

  Each resample starts from the fit to all runs and from the start that had led there.

  Raises:
    ConfigError: fewer than 2 resamples, or so few runs that resamples cannot determine the law.
  """
  check_resamples(num_resamples)
  generator = np.random.default_rng(seed)
  counts = np.stack([_resample(fit, generator) for _ in range(num_resamples)])
  starts = np.stack([fit.theta, fit.good_starts[0]])
  theta, objective = minimise_from(
    fit.law, fit.runs, np.tile(starts, (num_resamples, 1)), np.repeat(counts, len(starts), axis=0)
  )
  theta, objective = theta.reshape(num_resamples, len(starts), -1), objective.reshape(num_resamples, len(starts))
  return Bootstrap(fit, theta[np.arange(num_resamples), np.argmin(objective, axis=1)], seed)


def _resample(fit: Fit, generator: np.random.Generator) -> Array:
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


def interval(draws: Array) -> tuple[Array, Array]:
  """Ends [n] of the central `LEVEL` interval of draws [b, n]."""
  low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
  return low, high


def leave_one_sparsity_out(fit: Fit) -> dict[str, float | None]:
  """Sparsity, as text, -> mean absolute error on its runs of a fit to all other runs, as `held_out_error`."""
  sparsity = fit.runs["sparsity"].to_numpy()
  return {f"{level:g}": held_out_error(fit, sparsity == level) for level in np.unique(sparsity)}


def held_out_error(fit: Fit, is_held: lbfgs.Flags) -> float | None:
  """Mean absolute error on some runs of a fit to all the others.

  Where the others leave coefficients open, it is the mean over fits with the same objective.

  Args:
    fit: the fit to all runs.
    is_held: which runs are left out of the fit [n].

  Returns:
    The error, or None where the other runs cannot determine the law.
  """
  held, rest = fit.runs[is_held], fit.runs[~is_held]
  try:
    fit.law.check_identifiable(rest)
  except ConfigError:
    return None
  theta, objective = minimise_from(fit.law, rest, np.concatenate([fit.theta[None], fit.good_starts]))
  errors = np.abs(fit.law.predict(theta[at_optimum(objective)], held) - held["loss"].to_numpy())
  return float(np.average(errors.mean(axis=0), weights=row_weights(held)))


def held_out_mae(fit: Fit, errors: Mapping[str, float | None]) -> float | None:
  """Mean over all runs of the error that each had when its sparsity was left out; None if one could not be."""
  if any(error is None for error in errors.values()):
    return None
  levels = fit.runs["sparsity"].map(lambda level: f"{level:g}")
  return float(np.average([errors[level] or 0.0 for level in levels], weights=row_weights(fit.runs)))
