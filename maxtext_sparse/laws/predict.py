"""Predicts the loss of runs that have not been made, with intervals, and says where it extrapolates."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from maxtext_sparse.amounts import meant_share
from maxtext_sparse.config import parse_keys, run_steps, SparsityKeys
from maxtext_sparse.errors import ConfigError, did_you_mean
from maxtext_sparse.laws import Array
from maxtext_sparse.laws.fit import Fit
from maxtext_sparse.laws.shapes import shape_of_config
from maxtext_sparse.laws.uncertainty import Bootstrap, interval
from maxtext_sparse.plan.cost import tokens_per_step, training_flops
from maxtext_sparse.schedule import average_density_limit, build_schedule, mean_density_while_pruning

# Keys that say something about a run whose length and matrices are not known.
_SCHEDULE_KEYS = ("pruning_schedule", "pruning_method", "gmp_fraction_of", "gmp_dense_fraction", "gmp_prune_fraction")
# Those of `pruning_method` that make a schedule.
_PRUNING_METHODS = ("global_gradual", "one-shot")
# Keys that decide which weights are prunable.
_PATTERN_KEYS = ("do_not_prune_kw", "prune_include", "prune_exclude")

# A value outside the fitted range by less than this share is not called an extrapolation.
_SLACK = 0.01


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A run that might be made. Counts are of prunable weights.

  Attributes:
    dense_params: weights before pruning.
    sparsity: S, the share of them that is removed in the end.
    average_density: mean density over the steps.
    tokens: D, training tokens.
  """

  dense_params: float
  sparsity: float
  average_density: float
  tokens: float

  @property
  def average_params(self) -> float:
    return self.dense_params * self.average_density

  @property
  def final_params(self) -> float:
    return self.dense_params * (1.0 - self.sparsity)

  @property
  def effective_flops(self) -> float:
    """6 N_avg D, what the active weights cost (paper section 3)."""
    return training_flops(self.average_params, self.tokens)

  @property
  def hardware_flops(self) -> float:
    """6 N_dense D, what hardware without unstructured sparsity spends."""
    return training_flops(self.dense_params, self.tokens)

  def to_dict(self) -> dict[str, float]:
    names = ("dense_params", "sparsity", "average_params", "final_params", "tokens", "effective_flops", "hardware_flops")
    return {name: float(getattr(self, name)) for name in names}


def average_density(keys: SparsityKeys, steps: int | None = None) -> float:
  """Mean density over the steps of a run: exact if their number is given, otherwise in the continuous limit.

  Raises:
    ConfigError: the keys give explicit start and end steps, which mean nothing without a number of steps.
  """
  if not keys.is_active:  # a dense run has no schedule, whatever its keys are
    return 1.0
  if steps is not None:
    return build_schedule(keys, steps).average_density()
  if keys.gmp_start_step >= 0:
    raise ConfigError(f"gmp_start_step={keys.gmp_start_step}: needs the run's number of steps, set steps in its config")
  share = 0.0 if keys.pruning_method == "one-shot" else keys.gmp_prune_fraction
  if keys.gmp_fraction_of == "compute":
    return average_density_limit(keys.pruning_schedule, keys.sparsity, keys.gmp_dense_fraction, share)
  recovery = 1.0 - keys.gmp_dense_fraction - share
  pruning = mean_density_while_pruning(keys.pruning_schedule, keys.sparsity)
  return keys.gmp_dense_fraction + share * pruning + recovery * (1.0 - keys.sparsity)


def candidate(
  dense_params: float, sparsity: float, tokens: float, schedule: Mapping[str, Any] | None = None
) -> Candidate:
  """A run of a given size.

  Args:
    dense_params: prunable weights before pruning.
    sparsity: S.
    tokens: D.
    schedule: sparsity keys that differ from the defaults (geometric, 25 % of the compute dense, 50 % pruning).

  Raises:
    ConfigError: a value out of range.
  """
  if not 0 <= sparsity < 1:
    raise ConfigError(f"--sparsity={sparsity:g}: must be a number in [0, 1){meant_share(f'{sparsity:g}')}")
  for option, value in (("--dense-params", dense_params), ("--tokens", tokens)):
    if not (np.isfinite(value) and value > 0):
      raise ConfigError(f"{option}={value:g}: must be a positive number")
  keys = parse_keys({**(schedule or {}), "sparsity": sparsity})
  return Candidate(dense_params, sparsity, average_density(keys), tokens)


def one_of(option: float | None, key: float | None) -> float | None:
  """The sparsity, which may be given as option or as key.

  Raises:
    ConfigError: it is given as both.
  """
  if option is not None and key is not None:
    raise ConfigError(f"sparsity={key:g}: --sparsity={option:g} is given too, keep one")
  return key if option is None else option


def parse_schedule(arguments: Iterable[str], sparsity_asked: float = 0.0) -> tuple[dict[str, str], float | None]:
  """Reads sparsity keys of the schedule, given as `key=value`.

  Args:
    arguments: the words.
    sparsity_asked: above 0 where some run will prune, so that the values must fit together. A dense run ignores them.

  Returns:
    The keys but `sparsity`, and `sparsity`, which is None if it is not given.

  Raises:
    ConfigError: an argument is not of that form, or not a key of the schedule's shape.
  """
  names = ("sparsity", *_SCHEDULE_KEYS)
  schedule: dict[str, str] = {}
  sparsity: float | None = None
  for argument in arguments:
    key, separator, value = argument.partition("=")
    if key in schedule or (key == "sparsity" and sparsity is not None):
      raise ConfigError(f"{argument}: {key} is given twice, keep one")
    if key == "sparsity":
      sparsity = parse_keys({"sparsity": value}).sparsity
      continue
    if not separator or key not in _SCHEDULE_KEYS:
      raise ConfigError(
        f"{argument}: must be key=value with one of the keys {', '.join(names)}{did_you_mean(key, names)}"
      )
    if key == "pruning_method" and value not in _PRUNING_METHODS:
      reason = "does not prune" if value == "hold" else "no such method"
      raise ConfigError(f"{argument}: {reason}, must be {' or '.join(_PRUNING_METHODS)}")
    schedule[key] = value
  parse_keys({**schedule, "sparsity": sparsity_asked})
  return schedule, sparsity


def candidate_of_config(
  path: str, tokens: float | None, num_devices: int = 1, overrides: Mapping[str, Any] | None = None
) -> Candidate:
  """The run that a MaxText config file describes.

  Args:
    path: YAML with the shape keys, the sparsity keys and, if `tokens` is None, the keys of length and batch.
    tokens: D, or None for steps x tokens of a step.
    num_devices: devices that train.
    overrides: sparsity keys that win over the file's.

  Raises:
    ConfigError: the model has no LLaMA-2 shape, patterns leave matrices dense, or a value is out of range.
  """
  if num_devices < 1:
    raise ConfigError(f"--devices={num_devices}: must be a positive number")
  shape, written = shape_of_config(path)
  raw = {**written, **(overrides or {})}
  for key in _PATTERN_KEYS:
    if raw.get(key):
      raise ConfigError(f"{path}: {key}={raw[key]}: changes what is prunable, give --dense-params (see params {path})")
  keys, steps = parse_keys(raw), run_steps(raw)
  if tokens is None:
    if steps < 1 or not raw.get("per_device_batch_size") or not raw.get("max_target_length"):
      raise ConfigError(f"{path}: steps, per_device_batch_size or max_target_length is missing, or give --tokens")
    tokens = steps * _tokens_per_step(path, raw, num_devices)
  return Candidate(float(shape.prunable), keys.sparsity, average_density(keys, steps if steps > 0 else None), tokens)


def _tokens_per_step(path: str, raw: Mapping[str, Any], num_devices: int) -> int:
  try:
    tokens = tokens_per_step(raw, num_devices)
  except ConfigError as error:
    raise ConfigError(f"{path}: {error}, give --devices or --tokens") from None
  if tokens is None:
    raise ConfigError(f"{path}: enable_rampup_batch_size=True: steps differ in their tokens, give --tokens")
  return tokens


def as_columns(candidates: Sequence[Candidate]) -> dict[str, Array]:
  """The columns that laws read, each [n]."""
  names = ("dense_params", "average_params", "final_params", "tokens", "sparsity")
  return {name: np.array([getattr(c, name) for c in candidates], dtype=np.float64) for name in names}


def predictions(fit: Fit, resamples: Bootstrap, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
  """One JSON object for each candidate: the run, its `loss`, the loss's `interval`, and `extrapolates`."""
  columns = as_columns(candidates)
  low, high = interval(resamples.draws(columns))
  return [
    c.to_dict() | {"loss": float(loss), "interval": [float(a), float(b)], "extrapolates": extrapolations(fit, c)}
    for c, loss, a, b in zip(candidates, fit.predict(columns), low, high)
  ]


def extrapolations(fit: Fit, run: Candidate) -> list[str]:
  """In what a candidate lies outside the runs that the law was fitted to; empty if it lies inside."""
  return list(_outside(fit.runs, run, dict.fromkeys((fit.law.size, "tokens", "sparsity"))))


def _outside(runs: pd.DataFrame, run: Candidate, columns: Iterable[str]) -> Iterable[str]:
  for column in columns:
    low, high, value = runs[column].min(), runs[column].max(), getattr(run, column)
    if value > high * (1 + _SLACK) or value < low * (1 - _SLACK):
      times = f", {value / high:.3g} times the largest" if value > high > 0 else ""
      yield f"{column} {value:.4g} is outside the fitted {low:.4g} to {high:.4g}{times}"
