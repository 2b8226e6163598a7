"""The laws by name: Chinchilla's form with four meanings of N, Frantar's, and the two multiplier laws."""

from collections.abc import Mapping
import math

import numpy as np

from maxtext_sparse.errors import ConfigError, did_you_mean
from maxtext_sparse.laws import Array
from maxtext_sparse.laws.law import (
  chinchilla_coefficients,
  Coefficient,
  EXPONENTS,
  Law,
  LOG_CONSTANTS,
  LOG_FACTORS,
  optimised,
  safe_exp,
)
from maxtext_sparse.laws.multiplier import Multiplier, MultiplierPower, SIZES


class Chinchilla(Law):
  """Paper eq. 1, and eq. 2 where N is the average parameter count: L = A / N^alpha + B / D^beta + E."""

  equation = "L = A / N^alpha + B / D^beta + E"

  def __init__(self, name: str, size: str):
    super().__init__(name, size)
    # At one final size, a sparser run has a larger average size. The other two sizes leave the sparsity out.
    self.knows_sparsity = size == "average_params"

  @property
  def parameters(self) -> tuple[Coefficient, ...]:
    return chinchilla_coefficients(self.size)

  def terms(self, theta: Array, log_n: Array, log_d: Array, log_density: Array) -> Array:
    del log_density
    a, b, e, alpha, beta = theta
    return np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])


class Frantar(Law):
  """Paper appendix A: L = (a_S (1-S)^b_S + c_S) (1/N)^b_N + (a_D/D)^b_D + c, with N the final parameter count."""

  equation = "L = (a_S (1-S)^b_S + c_S) / N^b_N + (a_D/D)^b_D + c"
  knows_sparsity = True

  @property
  def parameters(self) -> tuple[Coefficient, ...]:
    return (
      Coefficient("a_S", (), is_log=True, unit="loss x parameters^b_N", varies_with="sparsity", same_start="c_S"),
      Coefficient("b_S", (1.0,), varies_with="sparsity"),
      Coefficient("c_S", LOG_FACTORS, is_log=True, unit="loss x parameters^b_N", varies_with=self.size),
      Coefficient("b_N", EXPONENTS, varies_with=self.size),
      Coefficient("a_D", LOG_FACTORS, unit="tokens", varies_with="tokens"),
      Coefficient("b_D", EXPONENTS, varies_with="tokens"),
      Coefficient("c", LOG_CONSTANTS, is_log=True, unit="loss"),
    )

  @property
  def optimised_as(self) -> Mapping[str, str]:
    return {"a_D": "b_D ln a_D"}

  def terms(self, theta: Array, log_n: Array, log_d: Array, log_density: Array) -> Array:
    log_a_s, b_s, log_c_s, b_n, d, b_d, c = theta
    data = d - b_d * log_d
    return np.stack([log_a_s + b_s * log_density - b_n * log_n, log_c_s - b_n * log_n, data, np.full_like(data, c)])

  def coefficients(self, theta: Array) -> dict[str, float]:
    """The optimised value of a_D is b_D ln a_D, in which the term's log is linear."""
    values = super().coefficients(theta)
    return values | {"a_D": safe_exp(values["a_D"] / values["b_D"]) if values["b_D"] else math.nan}

  def theta(self, coefficients: Mapping[str, float]) -> Array:
    values = super().theta(coefficients)
    names = [p.name for p in self.parameters]
    log_a_d = optimised(Coefficient("a_D", (), is_log=True), coefficients["a_D"])
    values[names.index("a_D")] = coefficients["b_D"] * log_a_d
    return values


LAWS: dict[str, Law] = {
  law.name: law
  for law in (
    Chinchilla("average", "average_params"),
    Chinchilla("chinchilla", "dense_params"),
    Chinchilla("chinchilla-final", "final_params"),
    Frantar("frantar", "final_params"),
    Multiplier("multiplier", SIZES["dense"]),
    MultiplierPower("multiplier-power", SIZES["dense"]),
  )
}


def law_named(name: str) -> Law:
  """The law of this name.

  Raises:
    ConfigError: there is none.
  """
  if name not in LAWS:
    raise ConfigError(f"--law={name}: must be {', '.join(LAWS)}{did_you_mean(name, LAWS)}")
  return LAWS[name]
