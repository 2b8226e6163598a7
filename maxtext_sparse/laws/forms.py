"""The laws: each says how loss depends on a run, as a sum of positive terms, in the log-sum-exp form that is fitted.

With the log of every term linear in the optimised values, log L = logsumexp(terms) (Hoffmann et al. 2022, appendix D.3),
and the gradient follows without further work. A new law is one subclass of `Law` and one entry of `LAWS`.
"""

from collections.abc import Mapping
import dataclasses
import itertools
import math
from typing import ClassVar

import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError

# Hoffmann et al.'s grid of initial values (2022, appendix D.3): exponents, log of the constant, log of the factors.
_EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)
_LOG_CONSTANTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_LOG_FACTORS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)


@dataclasses.dataclass(frozen=True)
class Parameter:
  """One optimised value.

  Attributes:
    name: of the coefficient in the equation.
    starts: initial values of the optimised value; empty if it starts where `same_start` does.
    is_log: the optimised value is the coefficient's natural logarithm, which keeps the coefficient positive.
    unit: of the coefficient.
    varies_with: column that must vary for the coefficient to be told apart from the constant.
    same_start: name of the parameter that shares its initial value.
  """

  name: str
  starts: tuple[float, ...]
  is_log: bool = False
  unit: str = "1"
  varies_with: str = ""
  same_start: str = ""


class Law:
  """A scaling law. Subclasses declare parameters, in the order of theta, and terms.

  Attributes:
    name: on the command line.
    size: column that the law takes as N.
    equation: as in the paper.
    parameters: what is optimised.
  """

  equation: ClassVar[str]

  def __init__(self, name: str, size: str):
    self.name = name
    self.size = size

  @property
  def parameters(self) -> tuple[Parameter, ...]:
    raise NotImplementedError

  @staticmethod
  def terms(theta: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_density: np.ndarray) -> np.ndarray:
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

  def features(self, runs: pd.DataFrame | Mapping[str, np.ndarray]) -> np.ndarray:
    """[3, n]: ln N, ln D, ln(1 - S)."""
    columns = [np.asarray(runs[name], dtype=np.float64) for name in (self.size, "tokens", "sparsity")]
    return np.stack([np.log(columns[0]), np.log(columns[1]), np.log1p(-columns[2])])

  def linear_terms(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets [k, n] and slopes [k, n, p] such that terms = offsets + slopes theta, for features [3, n].

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

  def coefficients(self, theta: np.ndarray) -> dict[str, float]:
    """Optimised values [p] -> the equation's coefficients."""
    return {p.name: _exp(value) if p.is_log else float(value) for p, value in zip(self.parameters, theta)}

  def theta(self, coefficients: Mapping[str, float]) -> np.ndarray:
    """The equation's coefficients -> optimised values [p].

    Raises:
      ConfigError: a coefficient is missing or unknown, or not positive where its logarithm is fitted.
    """
    names = [p.name for p in self.parameters]
    if set(coefficients) != set(names):
      raise ConfigError(f"--at={','.join(coefficients)}: --law={self.name} has the coefficients {', '.join(names)}")
    return np.array([_optimised(p, coefficients[p.name]) for p in self.parameters])

  def log_loss(self, theta: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Predicted ln L.

    Args:
      theta: [..., p].
      features: [3, n].

    Returns:
      [..., n].
    """
    offsets, slopes = self.linear_terms(features)
    return np.logaddexp.reduce(np.einsum("knp,...p->...kn", slopes, theta) + offsets, axis=-2)

  def predict(self, theta: np.ndarray, runs: pd.DataFrame | Mapping[str, np.ndarray]) -> np.ndarray:
    """Predicted loss [..., n] of runs for optimised values [..., p]."""
    return np.exp(self.log_loss(theta, self.features(runs)))

  def start_grid(self) -> np.ndarray:
    """Every combination of initial values [g, p]."""
    free = [p for p in self.parameters if not p.same_start]
    column = {p.name: index for index, p in enumerate(free)}
    grid = np.array(list(itertools.product(*(p.starts for p in free))))
    return grid[:, [column[p.same_start or p.name] for p in self.parameters]]

  def check_identifiable(self, runs: pd.DataFrame) -> None:
    """Raises ConfigError if the runs cannot determine every parameter, naming those that they cannot."""
    if len(runs) < len(self.parameters):
      raise ConfigError(
        f"--law={self.name}: {len(runs)} runs for {len(self.parameters)} parameters "
        f"({', '.join(p.name for p in self.parameters)}), must be at least as many"
      )
    for column in dict.fromkeys(p.varies_with for p in self.parameters if p.varies_with):
      # Values within 0.1 % of each other are one size.
      num_values = len(np.unique(np.round(np.log1p(runs[column].to_numpy(dtype=np.float64)), 3)))
      if num_values < 2:
        names = " and ".join(p.name for p in self.parameters if p.varies_with == column)
        raise ConfigError(
          f"--law={self.name}: {names} cannot be told apart from the constant, {column} is the same "
          "in all these runs, must take at least 2 values (3 to determine them)"
        )


class Chinchilla(Law):
  """Eq. 1, and with the average parameter count as N eq. 2: L = A / N^alpha + B / D^beta + E."""

  equation = "L = A / N^alpha + B / D^beta + E"

  @property
  def parameters(self) -> tuple[Parameter, ...]:
    return (
      Parameter("A", _LOG_FACTORS, is_log=True, unit="loss x parameters^alpha", varies_with=self.size),
      Parameter("B", _LOG_FACTORS, is_log=True, unit="loss x tokens^beta", varies_with="tokens"),
      Parameter("E", _LOG_CONSTANTS, is_log=True, unit="loss"),
      Parameter("alpha", _EXPONENTS, varies_with=self.size),
      Parameter("beta", _EXPONENTS, varies_with="tokens"),
    )

  @staticmethod
  def terms(theta, log_n, log_d, log_density):
    del log_density
    a, b, e, alpha, beta = theta
    return np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])


class Frantar(Law):
  """Appendix A: L = (a_S (1-S)^b_S + c_S) (1/N)^b_N + (a_D/D)^b_D + c, with N the final parameter count."""

  equation = "L = (a_S (1-S)^b_S + c_S) / N^b_N + (a_D/D)^b_D + c"

  @property
  def parameters(self) -> tuple[Parameter, ...]:
    return (
      Parameter("a_S", (), is_log=True, unit="loss x parameters^b_N", varies_with="sparsity", same_start="c_S"),
      Parameter("b_S", (1.0,), varies_with="sparsity"),
      Parameter("c_S", _LOG_FACTORS, is_log=True, unit="loss x parameters^b_N", varies_with=self.size),
      Parameter("b_N", _EXPONENTS, varies_with=self.size),
      Parameter("a_D", _LOG_FACTORS, unit="tokens", varies_with="tokens"),
      Parameter("b_D", _EXPONENTS, varies_with="tokens"),
      Parameter("c", _LOG_CONSTANTS, is_log=True, unit="loss"),
    )

  @staticmethod
  def terms(theta, log_n, log_d, log_density):
    log_a_s, b_s, log_c_s, b_n, d, b_d, c = theta
    data = d - b_d * log_d
    return np.stack([log_a_s + b_s * log_density - b_n * log_n, log_c_s - b_n * log_n, data, np.full_like(data, c)])

  def coefficients(self, theta):
    """The optimised value of a_D is b_D ln a_D, in which the term's log is linear."""
    values = super().coefficients(theta)
    return values | {"a_D": _exp(values["a_D"] / values["b_D"]) if values["b_D"] else math.nan}

  def theta(self, coefficients):
    values = super().theta(coefficients)
    names = [p.name for p in self.parameters]
    log_a_d = _optimised(Parameter("a_D", (), is_log=True), coefficients["a_D"])
    values[names.index("a_D")] = coefficients["b_D"] * log_a_d
    return values


LAWS: dict[str, Law] = {
  law.name: law
  for law in (
    Chinchilla("average", "average_params"),
    Chinchilla("chinchilla", "dense_params"),
    Chinchilla("chinchilla-final", "final_params"),
    Frantar("frantar", "final_params"),
  )
}


def _optimised(parameter: Parameter, coefficient: float) -> float:
  if not math.isfinite(coefficient):
    raise ConfigError(f"--at={parameter.name}={coefficient:g}: must be a finite number")
  if not parameter.is_log:
    return coefficient
  if coefficient <= 0:
    raise ConfigError(f"--at={parameter.name}={coefficient:g}: must be positive")
  return math.log(coefficient)


def _exp(value: float) -> float:
  """e^value, infinite where a coefficient that the runs do not determine overflows."""
  return math.exp(value) if value < 700 else math.inf


def law_named(name: str) -> Law:
  """Raises ConfigError for an unknown name."""
  if name not in LAWS:
    raise ConfigError(f"--law={name}: must be {', '.join(LAWS)}")
  return LAWS[name]
