"""Turns the keys of a point into the config of a run.

Token budgets become steps and batch sizes. MaxText itself checks the other keys and gives the number of weights, from
shapes alone.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import os
from typing import Any

from maxtext_sparse.amounts import parse_amount, parse_count
from maxtext_sparse.arguments import refuse_unknown_keys
from maxtext_sparse.config import parse_keys
from maxtext_sparse.config_files import parse_yaml
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.budget import steps_for_tokens
from maxtext_sparse.plan.cost import training_flops
from maxtext_sparse.plan.models import load_model, Model
from maxtext_sparse.plan.twins import twin_finder
from maxtext_sparse.run_values import check_values
from maxtext_sparse.schedule import Schedule
from maxtext_sparse.sweeps.manifest import config_text

# Keys of sweep files that MaxText does not have. They become `steps` and `per_device_batch_size`.
BUDGETS = ("tokens", "batch_tokens")
# `steps` in the model files are the paper's 10x tokens, from which other multiples are computed.
_OWN_LENGTH = 10.0
# These keys say when and how weights are pruned. Two runs that differ in nothing else are the same until they prune.
SCHEDULE_KEYS = (
  "sparsity",
  "pruning_method",
  "pruning_schedule",
  "gmp_pruning_frequency",
  "gmp_start_step",
  "gmp_end_step",
  "gmp_dense_fraction",
  "gmp_prune_fraction",
  "gmp_fraction_of",
  "pruning_scope",
  "pruning_structure",
  "pruning_score",
  "pruning_seed",
  "min_matrix_density",
)


@dataclasses.dataclass(frozen=True)
class Resolved:
  """A run that has no name yet.

  Attributes:
    config: its MaxText keys.
    schedule: its pruning events, None for a dense run.
    steps: T, its number of steps.
    num_prunable: number of prunable weights of the dense model.
    batch_tokens: tokens per step.
    dataset_type: MaxText's `dataset_type`, also if the config leaves it at MaxText's default.
    flops_per_token: model FLOPs of training on one token.
  """

  config: dict[str, Any]
  schedule: Schedule | None
  steps: int
  num_prunable: int
  batch_tokens: int
  dataset_type: str
  flops_per_token: float

  @property
  def effective_flops(self) -> float:
    """6 B sum_t N(t); of a dense run 6 N D."""
    active = self.steps * self.num_prunable
    if self.schedule is not None:
      active = self.schedule.active_sum(self.steps, self.num_prunable)
    return training_flops(active, self.batch_tokens)

  @property
  def sparsity(self) -> float:
    """S, the final share of the prunable weights that is removed."""
    return float(self.config.get("sparsity", 0.0))


class Resolver:
  """Resolves the points of one sweep. Points that differ only in their schedule share one model, which is built once."""

  def __init__(self, devices: int, scratch: str):
    """Makes a resolver for runs on `devices` chips.

    Args:
      devices: chips that one run trains on.
      scratch: a folder for config files, since MaxText reads configs from files only.
    """
    self._devices = devices
    self._folder = scratch
    self._model_at = functools.cache(lambda path: load_model([path]))
    self._finder_at = functools.cache(lambda path: twin_finder([path], self._model_at(path).flat, devices))

  def resolve(self, files: Mapping[str, Any], keys: Mapping[str, Any]) -> Resolved:
    """The run that the keys of a point ask for.

    Args:
      files: the keys of the config files alone. Their `steps` are what the budget `10x` means.
      keys: the keys of the files and of the sweep file together.

    Raises:
      ConfigError: MaxText or the plugin would refuse the run, or its budget does not make whole steps.
    """
    config = {key: value for key, value in keys.items() if key not in BUDGETS}
    if "batch_tokens" in keys:
      config["per_device_batch_size"] = self._per_device(config, keys["batch_tokens"])
    batch_tokens = self._batch_tokens(config)
    if "tokens" in keys:
      config["steps"] = steps_for_tokens(self._tokens(files, str(keys["tokens"])), batch_tokens)
    steps = _steps(config)
    sparsity_keys = parse_keys(config)
    model = self._model(config)
    plan = model.plan(sparsity_keys, steps) if sparsity_keys.is_active else None
    schedule, num_prunable = (plan.schedule, plan.num_prunable) if plan else (None, sum(model.rule_sizes(sparsity_keys)))
    dataset_type = _text(model.flat["dataset_type"])
    return Resolved(config, schedule, steps, num_prunable, batch_tokens, dataset_type, model.flops_per_token)

  def twins(self, run: Resolved) -> list[Resolved]:
    """The dense runs that are as large as a sparse run is on average.

    There is one if some hidden size has this number of weights, and otherwise the two neighbours (the paper's
    footnote 1).
    """
    assert run.schedule is not None
    average = run.schedule.active_sum(run.steps, run.num_prunable) / run.steps
    dense = {key: value for key, value in run.config.items() if key not in SCHEDULE_KEYS}
    if parse_keys(dense).is_active:
      raise ConfigError("twins=true: prune_groups with a sparsity would prune the dense twins too, set sparsity instead")
    twin = self._finder_at(self._path(run.config)).find(run.sparsity, average)
    configs = [dense | _parsed(neighbour.overrides) for neighbour in twin.neighbours]
    return [self.resolve(config, config) for config in configs]

  def _model(self, config: Mapping[str, Any]) -> Model:
    return self._model_at(self._path(config))

  def _path(self, config: Mapping[str, Any]) -> str:
    """Writes a file with all keys of a config but its length and schedule, and returns its path.

    Equal keys give the same path, which is what makes points share a model.
    """
    text = config_text({key: value for key, value in config.items() if key not in (*SCHEDULE_KEYS, *BUDGETS, "steps")})
    path = os.path.join(self._folder, hashlib.sha256(text.encode()).hexdigest()[:16] + ".yml")
    with open(path, "w", encoding="utf-8") as file:
      file.write(text)
    return path

  def _batch_tokens(self, config: Mapping[str, Any]) -> int:
    tokens = self._model(config).tokens_per_step(self._devices)
    if tokens is None:
      raise ConfigError("enable_rampup_batch_size=True: the runs of a sweep need one batch size")
    return tokens

  def _per_device(self, config: Mapping[str, Any], batch_tokens: Any) -> float:
    """The per_device_batch_size that makes a batch of so many tokens. MaxText allows fractions of a sequence."""
    tokens = int(_named("batch_tokens", parse_count, batch_tokens))
    flat = self._model(config).flat
    sequence = int(flat["max_target_length"] * flat["gradient_accumulation_steps"])
    if tokens % sequence:
      raise ConfigError(f"batch_tokens={batch_tokens}: must be whole sequences of {sequence} tokens")
    return tokens / sequence / self._devices

  def _tokens(self, files: Mapping[str, Any], budget: str) -> float:
    """Tokens of a budget: an amount such as 33.5B, or a multiple such as 20x, of which the files' steps are 10x."""
    if not budget.endswith("x"):
      return float(_named("tokens", parse_amount, budget))
    times = float(_named("tokens", parse_amount, budget[:-1]))
    if "steps" not in files:
      raise ConfigError(f"tokens={budget}: the config files have no steps, which are 10x; give an amount such as 33.5B")
    return times / _OWN_LENGTH * int(files["steps"]) * self._batch_tokens(files)


def check_point(keys: Mapping[str, Any]) -> None:
  """Checks the keys of a point without MaxText.

  Raises:
    ConfigError: naming the first key at fault.
  """
  config = {key: value for key, value in keys.items() if key not in BUDGETS}
  refuse_unknown_keys(config)
  check_values(config, has_length="tokens" not in keys and "steps" in keys)


def _steps(config: Mapping[str, Any]) -> int:
  steps = config.get("steps")
  if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
    given = f"steps={steps}" if steps is not None else "steps: the length of the runs is missing"
    raise ConfigError(f"{given}, give a number of steps, or tokens such as 33.5B or 20x")
  return steps


def _named(name: str, parse: Callable[[str, str], Any], value: Any) -> Any:
  """Parses a budget. The parser's messages name an option, `--tokens`, where a sweep file has the key `tokens`."""
  try:
    return parse(str(value), name)
  except ConfigError as error:
    raise ConfigError(str(error).removeprefix("--")) from None


def _text(choice: Any) -> str:
  """The text of a choice, which MaxText turns into a member of an enum for some keys."""
  return str(getattr(choice, "value", choice))


def _parsed(overrides: Sequence[str]) -> dict[str, Any]:
  return {key: parse_yaml(value) for key, _, value in (override.partition("=") for override in overrides)}
