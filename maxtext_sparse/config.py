"""The sparsity keys of a MaxText config: names, defaults, allowed values.

`SparsityKeys` is the one definition. Hooked into MaxText it becomes part of `MaxTextConfig`, so that every key is valid
in any YAML, on the command line and as an `M_*` environment variable.
"""

import ast
from collections.abc import Container, Mapping
import difflib
import re
from typing import Annotated, Any, Literal

import pydantic

from maxtext_sparse.errors import ConfigError


def _none_to_default(value: Any, info: pydantic.ValidationInfo) -> Any:
  """MaxText's config loader turns the YAML string "none" into None."""
  if value is None:
    return DEFAULTS[str(info.field_name)]
  return value


def _to_list(value: Any) -> Any:
  """Accepts one pattern, a list, or a list written as a string, as MaxText does for its own list keys."""
  if isinstance(value, str):
    text = value.strip()
    if text.startswith(("[", "(")):
      try:
        literal = ast.literal_eval(text)
      except (ValueError, SyntaxError):
        return [text]
      return list(literal) if isinstance(literal, (list, tuple)) else [text]
    return [text] if text else []
  return list(value) if isinstance(value, tuple) else value


def _from_sexagesimal(value: Any) -> Any:
  """YAML 1.1 reads an unquoted 2:4 as the base-60 integer 124."""
  if isinstance(value, int) and not isinstance(value, bool):
    return f"{value // 60}:{value % 60}"
  return value


_OrDefault = pydantic.BeforeValidator(_none_to_default)
_Patterns = Annotated[list[str], pydantic.BeforeValidator(_to_list), _OrDefault]


class SparsityKeys(pydantic.BaseModel):
  """Keys and defaults. Fractions are shares of the whole run, sparsity is the share of prunable weights removed."""

  # Final fraction of prunable weights removed.
  sparsity: Annotated[float, pydantic.Field(ge=0.0, lt=1.0)] = 0.0
  # global_gradual: iterative magnitude pruning. one-shot: everything at the start step. hold: keep a checkpoint's zeros.
  pruning_method: Literal["global_gradual", "one-shot", "hold"] = "global_gradual"
  # Which weights compete with each other for survival.
  pruning_scope: Literal["global", "per_matrix", "erk"] = "global"
  # n:m keeps n of m neighbours along the contraction axis.
  pruning_structure: Annotated[str, pydantic.BeforeValidator(_from_sexagesimal), _OrDefault] = "none"
  pruning_score: Literal["magnitude", "magnitude_rms", "random"] = "magnitude"
  pruning_schedule: Literal["geometric", "cubic", "linear"] = "geometric"
  # P, steps between pruning events.
  gmp_pruning_frequency: Annotated[int, pydantic.Field(ge=1)] = 100
  # Explicit first and last event step; -1 derives both from the two fractions.
  gmp_start_step: Annotated[int, pydantic.Field(ge=-1)] = -1
  gmp_end_step: Annotated[int, pydantic.Field(ge=-1)] = -1
  gmp_dense_fraction: Annotated[float, pydantic.Field(ge=0.0, le=1.0)] = 0.25
  gmp_prune_fraction: Annotated[float, pydantic.Field(ge=0.0, le=1.0)] = 0.50
  # What the two fractions are fractions of.
  gmp_fraction_of: Literal["compute", "steps"] = "compute"
  # Go on with a run whose recorded schedule differs from the one these keys give.
  gmp_reschedule: bool = False
  # Substring of parameter paths to leave dense.
  do_not_prune_kw: Annotated[str, _OrDefault] = ""
  # Regular expressions over paths of prunable parameters: prune only these / leave these dense.
  prune_include: _Patterns = []
  prune_exclude: _Patterns = []

  @pydantic.field_validator("pruning_structure")
  @classmethod
  def _structure_is_n_of_m(cls, structure: str) -> str:
    n, _, m = structure.partition(":")
    if structure != "none" and not (n.isdigit() and m.isdigit() and 0 < int(n) < int(m)):
      raise ValueError("must be 'none' or 'n:m' with 0 < n < m, such as '2:4'")
    return structure

  @pydantic.field_validator("prune_include", "prune_exclude")
  @classmethod
  def _patterns_compile(cls, patterns: list[str]) -> list[str]:
    for pattern in patterns:
      try:
        re.compile(pattern)
      except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
    return patterns

  @property
  def is_active(self) -> bool:
    """Whether training differs from stock MaxText at all."""
    return self.sparsity > 0 or self.pruning_method == "hold" or self.pruning_structure != "none"


KEYS = tuple(SparsityKeys.model_fields)
DEFAULTS: dict[str, Any] = SparsityKeys().model_dump()


def parse_keys(raw: Mapping[str, Any]) -> SparsityKeys:
  """Reads the sparsity keys out of a flat MaxText config and checks each value and their combination.

  Args:
    raw: a flat config; keys that are not ours are read only to find combinations that cannot work.

  Raises:
    ConfigError: naming the first key at fault.
  """
  try:
    keys = SparsityKeys(**{name: raw[name] for name in KEYS if name in raw})
  except pydantic.ValidationError as error:
    raise ConfigError(_one_line(error)) from None
  _refuse_unsupported(keys)
  if keys.is_active:
    _check_steps(keys)
    _refuse_combinations(keys, raw)
  return keys


def keys_of(config: Any) -> SparsityKeys:
  """The sparsity keys of a finished MaxText config object (`HyperParameters`), checked when it was built."""
  flat = config.get_keys()
  return SparsityKeys(**{name: flat[name] for name in KEYS if name in flat})


def run_steps(raw: Mapping[str, Any]) -> int:
  """T, the length of the run; MaxText falls back to the learning-rate schedule's length where `steps` is -1."""
  steps = int(raw.get("steps", -1))
  return steps if steps != -1 else int(raw.get("learning_rate_schedule_steps", -1))


def _one_line(error: pydantic.ValidationError) -> str:
  first = error.errors()[0]
  key = ".".join(str(part) for part in first["loc"][:1])
  reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
  return f"{key}={first['input']!r}: {reason}"


# Values that the config accepts and this version does not train with: key -> the values that it does.
_SUPPORTED = {
  "pruning_scope": ("global",),
  "pruning_structure": ("none",),
  "pruning_score": ("magnitude",),
}


def _refuse_unsupported(keys: SparsityKeys) -> None:
  for name, supported in _SUPPORTED.items():
    value = getattr(keys, name)
    if value not in supported:
      raise ConfigError(f"{name}={value!r}: not supported by this version, use {' or '.join(map(repr, supported))}")


def _check_steps(keys: SparsityKeys) -> None:
  """Checks the step and fraction keys against each other; the run's length comes in with the schedule."""
  start, end = keys.gmp_start_step, keys.gmp_end_step
  if keys.pruning_method == "hold":
    if keys.sparsity > 0:
      raise ConfigError(f"sparsity={keys.sparsity}: pruning_method='hold' keeps the zeros there are, set sparsity=0")
    return
  if start >= 0 and end < 0 and keys.pruning_method != "one-shot":
    raise ConfigError(f"gmp_start_step={start}: gmp_end_step is missing, give both or neither")
  if end >= 0 and start < 0:
    raise ConfigError(f"gmp_end_step={end}: gmp_start_step is missing, give both or neither")
  if 0 <= end < start:
    raise ConfigError(f"gmp_end_step={end}: before gmp_start_step={start}, must not be")
  total = keys.gmp_dense_fraction + (0.0 if keys.pruning_method == "one-shot" else keys.gmp_prune_fraction)
  if start < 0 and total > 1.0 + 1e-9:
    raise ConfigError(
      f"gmp_prune_fraction={keys.gmp_prune_fraction}: with gmp_dense_fraction={keys.gmp_dense_fraction} "
      f"the sum is {total:g}, must be at most 1"
    )


def _refuse_combinations(keys: SparsityKeys, raw: Mapping[str, Any]) -> None:
  """Refuses other MaxText features that would silently break the algorithm."""
  name = next(key for key in ("sparsity", "pruning_method", "pruning_structure") if getattr(keys, key) != DEFAULTS[key])
  why_not = {
    "enable_diloco": "DiLoCo averages weights outside the optimizer and would revive pruned ones",
    "use_dpo": "preference training does not pass through MaxText's train step",
    "checkpoint_is_quantized": "the float kernels are not there to be pruned",
  }
  for key, reason in why_not.items():
    if raw.get(key):
      raise ConfigError(f"{key}={raw[key]}: {reason}, set {key}=False or {name}={DEFAULTS[name]}")
  if "rl" in raw:  # only RL trainers' YAML has this section
    raise ConfigError(f"{name}={getattr(keys, name)}: RL trainers do not pass through MaxText's train step, unset it")
  lora = raw.get("lora") or {}
  if (isinstance(lora, Mapping) and lora.get("enable_lora")) or raw.get("enable_lora"):
    raise ConfigError("lora.enable_lora=True: the prunable kernels are frozen under LoRA, merge the adapter first")
  if raw.get("weight_sparsity_n") or raw.get("weight_sparsity_m"):
    raise ConfigError(
      f"weight_sparsity_n={raw.get('weight_sparsity_n')}: MaxText's own N:M path and {name} exclude each other, "
      "drop weight_sparsity_n and weight_sparsity_m"
    )
  if raw.get("enable_rampup_batch_size") and keys.gmp_start_step < 0 and keys.gmp_fraction_of == "compute":
    raise ConfigError(
      "enable_rampup_batch_size=True: steps differ in compute, give gmp_start_step and gmp_end_step "
      "or gmp_fraction_of=steps"
    )


def refuse_misspelt(raw: Mapping[str, Any], known: Container[str]) -> None:
  """Raises ConfigError for an unknown key that looks like one of ours; MaxText lists all its 850 keys instead."""
  for key in raw:
    close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.75) if key not in known else []
    if close:
      raise ConfigError(f"{key}={raw[key]}: no such key, did you mean {close[0]}?")
