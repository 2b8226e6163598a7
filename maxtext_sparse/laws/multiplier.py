"""Multiplier laws: a sparse run is worth a dense run with eff(S) times its parameters (Frantar et al. 2025).

  L = A / (N eff(S) eff(b))^alpha + B / D^beta + E,   eff(0) = 1, eff(most bits) = 1

`multiplier` fits one value of eff for each sparsity of the table, `multiplier-power` fits eff(S) = (1-S)^gamma. N is the
dense or the final size. Where the table has a column `bits`, the weights' precision, that varies, both fit one value of
eff for each precision too. The paper's average law makes a claim that these laws can test: a run is worth its average
size, eff(S) = N_avg / N.

The terms stay linear in what is optimised because the optimised value of eff is alpha ln eff, and that of gamma is
alpha gamma: ln(A / (N eff)^alpha) = ln A - alpha ln N - (alpha ln eff).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import cast

import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import Array
from maxtext_sparse.laws.law import chinchilla_coefficients, Coefficient, Law, optimised, Runs, safe_exp

SIZES = {"dense": "dense_params", "final": "final_params"}


class Multiplier(Law):
  """A multiplier for each sparsity, and for each precision where it varies.

  Attributes:
    levels: the sparsities with a multiplier, increasing, without 0; empty until `for_runs`.
    bits: the precisions with a multiplier, increasing, without the largest.
    most_bits: the largest precision, whose multiplier is 1; None where precision does not vary.
  """

  equation = "L = A / (N eff(S))^alpha + B / D^beta + E"
  knows_sparsity = True

  def __init__(
    self,
    name: str,
    size: str,
    levels: Sequence[float] = (),
    bits: Sequence[float] = (),
    most_bits: float | None = None,
  ):
    super().__init__(name, size)
    self.levels = tuple(levels)
    self.bits = tuple(bits)
    self.most_bits = most_bits
    if most_bits is not None:
      self.equation = self.equation.replace("eff(S)", "eff(S) eff(bits)")

  def for_runs(self, runs: pd.DataFrame) -> "Multiplier":
    """The law with a multiplier for each sparsity and precision of these runs.

    Raises:
      ConfigError: there is no dense run, whose multiplier is 1, or no sparse run.
    """
    levels = np.unique(runs["sparsity"].to_numpy())
    if levels[0] > 0:
      raise ConfigError(f"--law={self.name}: no run is dense (sparsity 0), a multiplier compares with dense runs")
    if len(levels) < 2:
      raise ConfigError(f"--law={self.name}: all runs are dense (sparsity 0), a multiplier needs sparse runs too")
    bits = sorted(map(float, runs["bits"].unique())) if "bits" in runs else []
    # The largest precision has the multiplier 1, so a single one has none to fit.
    rest = (bits[:-1], bits[-1]) if len(bits) > 1 else ()
    return type(self)(self.name, self.size, levels[1:].tolist(), *rest)

  @property
  def parameters(self) -> tuple[Coefficient, ...]:
    unit = "parameters per parameter"
    precision = (Coefficient(bits_name(bits), (0.0,), unit=unit) for bits in self.bits)
    return (*chinchilla_coefficients(self.size), *self._sparsity_parameters(unit), *precision)

  def _sparsity_parameters(self, unit: str) -> tuple[Coefficient, ...]:
    return tuple(Coefficient(level_name(level), (0.0,), unit=unit) for level in self.levels)

  @property
  def optimised_as(self) -> Mapping[str, str]:
    return {name: f"alpha ln {name}" for name in self._scaled_names()}

  def features(self, runs: Runs) -> Array:
    """[4, n]: ln N, ln D, ln(1 - S), bits. Runs without a precision have the largest."""
    plain = super().features(runs)
    bits = np.full(plain.shape[1], self.most_bits or 0.0)
    if self.most_bits is not None and "bits" in runs:
      bits = np.asarray(runs["bits"], dtype=np.float64)
    return np.concatenate([plain, bits[None]])

  def terms(self, theta: Array, log_n: Array, log_d: Array, log_density: Array, bits: Array | None = None) -> Array:
    a, b, e, alpha, beta = theta[:5]
    worth = self._log_worth(theta[5 : len(theta) - len(self.bits)], log_density)
    for value, precision in zip(theta[len(theta) - len(self.bits) :], self.bits):
      worth = worth + value * (bits == precision)
    return np.stack([a - alpha * log_n - worth, b - beta * log_d, np.full_like(log_n, e)])

  def _log_worth(self, theta: Array, log_density: Array) -> Array:
    """alpha ln eff(S) [n]: one value a level, and straight lines in ln(1 - S) between and beyond the levels."""
    knots = np.log1p(-np.array([0.0, *self.levels]))
    worth = np.zeros_like(log_density)
    for index, value in enumerate(theta, 1):
      worth = worth + value * _hat(log_density, knots, index)
    return worth

  def coefficients(self, theta: Array) -> dict[str, float]:
    """The optimised value of eff is alpha ln eff."""
    values = super().coefficients(theta)
    for name in self._scaled_names():
      values[name] = safe_exp(values[name] / values["alpha"]) if values["alpha"] else math.nan
    return values

  def theta(self, coefficients: Mapping[str, float]) -> Array:
    values = super().theta(coefficients)
    alpha = coefficients["alpha"]
    for index, parameter in enumerate(self.parameters):
      if parameter.name in self._scaled_names():
        log = dataclasses.replace(parameter, is_log=True)
        values[index] = alpha * optimised(log, coefficients[parameter.name])
    return values

  def _scaled_names(self) -> tuple[str, ...]:
    return (*map(level_name, self.levels), *map(bits_name, self.bits))

  def multipliers(self, coefficients: Mapping[str, float]) -> dict[float, float]:
    """Sparsity -> effective parameters per parameter, 1 for dense runs."""
    return {0.0: 1.0} | {level: coefficients[level_name(level)] for level in self.levels}

  def check_identifiable(self, runs: pd.DataFrame) -> None:
    super().check_identifiable(runs)
    wanted = {"sparsity": {0.0, *self.levels}}
    if self.most_bits is not None:
      wanted["bits"] = {*self.bits, self.most_bits}
    for column, values in wanted.items():
      missing = sorted(values - set(runs[column].unique()))
      if missing:
        raise ConfigError(f"--law={self.name}: no run has {column} {missing[0]:g}, its multiplier is not determined")


class MultiplierPower(Multiplier):
  """eff(S) = (1-S)^gamma: one coefficient for all sparsities."""

  equation = "L = A / (N eff(S))^alpha + B / D^beta + E, eff(S) = (1-S)^gamma"

  @property
  def optimised_as(self) -> Mapping[str, str]:
    return {**super().optimised_as, "gamma": "alpha gamma"}

  def _sparsity_parameters(self, unit: str) -> tuple[Coefficient, ...]:
    return (Coefficient("gamma", (0.0,), varies_with="sparsity"),)

  def _log_worth(self, theta: Array, log_density: Array) -> Array:
    """alpha ln eff(S) = (alpha gamma) ln(1 - S) [n]."""
    return cast(Array, theta[0] * log_density)

  def coefficients(self, theta: Array) -> dict[str, float]:
    """The optimised value of gamma is alpha gamma."""
    values = super().coefficients(theta)
    return values | {"gamma": values["gamma"] / values["alpha"] if values["alpha"] else math.nan}

  def theta(self, coefficients: Mapping[str, float]) -> Array:
    values = super().theta(coefficients)
    values[5] = coefficients["alpha"] * coefficients["gamma"]
    return values

  def _scaled_names(self) -> tuple[str, ...]:
    return tuple(map(bits_name, self.bits))

  def multipliers(self, coefficients: Mapping[str, float]) -> dict[float, float]:
    return {level: (1.0 - level) ** coefficients["gamma"] for level in (0.0, *self.levels)}

  def check_identifiable(self, runs: pd.DataFrame) -> None:
    Law.check_identifiable(self, runs)


def with_size(law: Law, size: str) -> Law:
  """The multiplier law that takes N to be the dense or the final size.

  Raises:
    ConfigError: the size is unknown, or the law has its own.
  """
  if size not in SIZES:
    raise ConfigError(f"--size={size}: must be {' or '.join(SIZES)}")
  if not isinstance(law, Multiplier):
    raise ConfigError(f"--size={size}: belongs to the multiplier laws, --law={law.name} has N = {law.size}")
  return type(law)(law.name, SIZES[size])


def level_name(sparsity: float) -> str:
  return f"eff({sparsity:g})"


def bits_name(bits: float) -> str:
  return f"eff({bits:g} bits)"


def _hat(x: Array, knots: Array, index: int) -> Array:
  """Weight [n] of a knot in the piecewise linear function through the (decreasing) knots, straight beyond the ends."""
  # Segment j lies between knots j and j + 1.
  segment = np.clip(np.searchsorted(-knots, -x, side="right") - 1, 0, len(knots) - 2)
  share = (x - knots[segment]) / (knots[segment + 1] - knots[segment])
  return np.where(segment == index - 1, share, np.where(segment == index, 1.0 - share, 0.0))
