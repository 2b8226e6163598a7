"""What every scaling law has in common: coefficients, terms, and the log-sum-exp form that is fitted.

A law says how the loss depends on a run, as a sum of positive terms. With the log of every term linear in the optimised
values theta, ln L = logsumexp(terms) (Hoffmann et al. 2022, appendix D.3), and the gradient follows without further
work. A new law is one subclass of `Law` and one entry of `forms.LAWS`.
"""

from collections.abc import Mapping
import dataclasses
import itertools
import math
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import Array

# Hoffmann et al.'s grid of initial values (2022, appendix D.3): exponents, log of the constant, log of the factors.
EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)
LOG_CONSTANTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
LOG_FACTORS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)

# A table of runs, or a mapping from the names of its columns to their values. Not a `type` statement: the figures of
# sparse inference are drawn with Python 3.11 too, for which torch has a small build.
Runs: TypeAlias = pd.DataFrame | Mapping[str, Any]  # noqa: UP040


@dataclasses.dataclass(frozen=True)
class Coefficient:
  """One coefficient of a law.

  Attributes:
    name: of the coefficient in the equation.
    starts: initial values of the optimised value; empty if it starts where `same_start` does.
    is_log: the optimised value is the coefficient's natural logarithm, which keeps the coefficient positive.
    unit: of the coefficient.
    varies_with: column that must vary for the coefficient to be told apart from the constant.
    same_start: name of the coefficient that shares its initial value.
  """

  name: str
  starts: tuple[float, ...]
  is_log: bool = False
  unit: str = "1"
  varies_with: str = ""
  same_start: str = ""


class Law:
  """A scaling law. Subclasses declare what is fitted, in the order of theta, and the terms.

  Attributes:
    name: on the command line.
    size: column that the law takes as N.
    equation: as in the paper.
    knows_sparsity: whether the loss depends on how sparse a run of a given final size is.
  """

  equation: str
  knows_sparsity = False

  def __init__(self, name: str, size: str):
    self.name = name
    self.size = size

  @property
  def optimised_as(self) -> Mapping[str, str]:
    """Coefficients whose optimised value depends on a second one -> what is optimised."""
    return {}

  @property
  def parameters(self) -> tuple[Coefficient, ...]:
    """What is optimised, in the order of theta."""
    raise NotImplementedError

  def terms(self, theta: Array, log_n: Array, log_d: Array, log_density: Array) -> Array:
    """Logs of the law's terms, each linear in theta.

    Args:
      theta: optimised values [p].
      log_n: ln N [n], N in parameters.
      log_d: ln D [n], D in tokens.
      log_density: ln(1 - S) [n].

    Returns:
      [k, n], the log of each of k terms.
    """
    raise NotImplementedError

  def for_runs(self, runs: pd.DataFrame) -> "Law":
    """The law that is fitted to these runs. Laws with a coefficient for each sparsity override it.

    Raises:
      ConfigError: the law has no meaning for these runs.
    """
    del runs
    return self

  def features(self, runs: Runs) -> Array:
    """What the terms depend on: [3, n] with ln N, ln D and ln(1 - S)."""
    columns = [np.asarray(runs[name], dtype=np.float64) for name in (self.size, "tokens", "sparsity")]
    return np.stack([np.log(columns[0]), np.log(columns[1]), np.log1p(-columns[2])])

  def linear_terms(self, features: Array) -> tuple[Array, Array]:
    """Offsets [k, n] and slopes [k, n, p] such that terms = offsets + slopes theta, for features [f, n].

    Raises:
      ConfigError: the law's terms are not linear in theta.
    """
    units = np.eye(len(self.parameters))
    offsets = self.terms(np.zeros(len(units)), *features)
    slopes = np.stack([self.terms(unit, *features) - offsets for unit in units], axis=-1)
    probe = np.sqrt(2.0 + np.arange(len(units)))
    if not np.allclose(self.terms(probe, *features), offsets + slopes @ probe):
      raise ConfigError(f"--law={self.name}: the logs of its terms must be linear in the optimised values")
    return offsets, slopes

  def coefficients(self, theta: Array) -> dict[str, float]:
    """Optimised values [p] -> the equation's coefficients."""
    return {p.name: safe_exp(value) if p.is_log else float(value) for p, value in zip(self.parameters, theta)}

  def theta(self, coefficients: Mapping[str, float]) -> Array:
    """The equation's coefficients -> optimised values [p].

    Raises:
      ConfigError: a coefficient is missing or unknown, or not positive where its logarithm is fitted.
    """
    names = [p.name for p in self.parameters]
    if set(coefficients) != set(names):
      raise ConfigError(f"--at={','.join(coefficients)}: --law={self.name} has the coefficients {', '.join(names)}")
    return np.array([optimised(p, coefficients[p.name]) for p in self.parameters])

  def log_loss(self, theta: Array, features: Array) -> Array:
    """Predicted ln L [..., n] for theta [..., p] and features [f, n]."""
    offsets, slopes = self.linear_terms(features)
    logs: Array = np.logaddexp.reduce(np.einsum("knp,...p->...kn", slopes, theta) + offsets, axis=-2)
    return logs

  def predict(self, theta: Array, runs: Runs) -> Array:
    """Predicted loss [..., n] of runs for optimised values [..., p]. It may be infinite far from the runs of the fit."""
    with np.errstate(over="ignore"):
      loss: Array = np.exp(self.log_loss(theta, self.features(runs)))
    return loss

  def start_grid(self) -> Array:
    """Every combination of initial values [g, p]."""
    free = [p for p in self.parameters if not p.same_start]
    column = {p.name: index for index, p in enumerate(free)}
    grid = np.array(list(itertools.product(*(p.starts for p in free))))
    chosen: Array = grid[:, [column[p.same_start or p.name] for p in self.parameters]]
    return chosen

  def check_identifiable(self, runs: pd.DataFrame) -> None:
    """Raises ConfigError if the runs cannot determine every coefficient. The message names those that they cannot."""
    if len(runs) < len(self.parameters):
      raise ConfigError(
        f"--law={self.name}: {len(runs)} runs for {len(self.parameters)} parameters "
        f"({', '.join(p.name for p in self.parameters)}), must be at least as many"
      )
    for column in dict.fromkeys(p.varies_with for p in self.parameters if p.varies_with):
      # Values within 0.1 % of each other count as one.
      num_values = len(np.unique(np.round(np.log1p(runs[column].to_numpy(dtype=np.float64)), 3)))
      if num_values < 2:
        names = " and ".join(p.name for p in self.parameters if p.varies_with == column)
        raise ConfigError(
          f"--law={self.name}: {names} cannot be told apart from the constant, {column} is the same "
          "in all these runs, must take at least 2 values (3 to determine them)"
        )


def chinchilla_coefficients(size: str) -> tuple[Coefficient, ...]:
  """Those of L = A / N^alpha + B / D^beta + E.

  Args:
    size: column that the law takes as N.
  """
  return (
    Coefficient("A", LOG_FACTORS, is_log=True, unit="loss x parameters^alpha", varies_with=size),
    Coefficient("B", LOG_FACTORS, is_log=True, unit="loss x tokens^beta", varies_with="tokens"),
    Coefficient("E", LOG_CONSTANTS, is_log=True, unit="loss"),
    Coefficient("alpha", EXPONENTS, varies_with=size),
    Coefficient("beta", EXPONENTS, varies_with="tokens"),
  )


def optimised(parameter: Coefficient, coefficient: float) -> float:
  """The optimised value of a coefficient: itself, or its logarithm.

  Raises:
    ConfigError: it is not finite, or not positive where its logarithm is fitted.
  """
  if not math.isfinite(coefficient):
    raise ConfigError(f"--at={parameter.name}={coefficient:g}: must be a finite number")
  if not parameter.is_log:
    return coefficient
  if coefficient <= 0:
    raise ConfigError(f"--at={parameter.name}={coefficient:g}: must be positive")
  return math.log(coefficient)


def safe_exp(value: float) -> float:
  """e^value, or infinity where a coefficient that the runs do not determine overflows."""
  return math.exp(value) if value < 700 else math.inf
