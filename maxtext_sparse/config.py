"""The sparsity keys of a MaxText config: names, defaults, meanings, allowed values.

`SparsityKeys` is their one definition. The plugin makes it part of `MaxTextConfig`, so that every key is valid in any
YAML, on the command line, and (except for lists) as an `M_*` environment variable.
"""

import ast
from collections.abc import Container, Mapping
import re
from typing import Annotated, Any, Literal

import pydantic

from maxtext_sparse.amounts import meant_share
from maxtext_sparse.config_files import parse_yaml
from maxtext_sparse.errors import ConfigError, did_you_mean
from maxtext_sparse.rules import (
  Block,
  check_rule,
  is_function_name,
  load_function,
  NOfM,
  parse_structure,
  PruningRule,
  SCORES,
)


def _none_to_default(value: Any, info: pydantic.ValidationInfo) -> Any:
  """MaxText's config loader turns the YAML string "none" into None."""
  return DEFAULTS[str(info.field_name)] if value is None else value


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


def _to_groups(value: Any) -> Any:
  """Accepts a list of mappings, or such a list written as YAML in a string, as it comes from the command line."""
  if isinstance(value, str):
    try:
      value = parse_yaml(value) or []
    except ValueError as error:
      raise ValueError(f"must be a list of mappings ({error})") from None
  return list(value) if isinstance(value, tuple) else value


def _from_sexagesimal(value: Any) -> Any:
  """YAML 1.1 reads an unquoted 2:4 as the base-60 integer 124."""
  if isinstance(value, int) and not isinstance(value, bool):
    return f"{value // 60}:{value % 60}"
  return value


def _check_structure(text: str) -> str:
  parse_structure(text)
  return text


def _check_score(score: str) -> str:
  if score not in SCORES and not is_function_name(score):
    raise ValueError(f"must be {', '.join(SCORES)}, or package.module:function")
  return score


def _check_pattern(pattern: str) -> str:
  try:
    re.compile(pattern)
  except re.error as error:
    raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
  return pattern


def _check_patterns(patterns: list[str]) -> list[str]:
  return [_check_pattern(pattern) for pattern in patterns]


_OrDefault = pydantic.BeforeValidator(_none_to_default)
_Pattern = Annotated[str, pydantic.AfterValidator(_check_pattern)]
_Patterns = Annotated[list[str], pydantic.BeforeValidator(_to_list), _OrDefault, pydantic.AfterValidator(_check_patterns)]
_Structure = Annotated[str, pydantic.BeforeValidator(_from_sexagesimal), pydantic.AfterValidator(_check_structure)]
_Score = Annotated[str, pydantic.AfterValidator(_check_score)]
_Scope = Literal["global", "per_matrix", "erk"]
_Shape = Literal["geometric", "cubic", "linear"]
_Sparsity = Annotated[float, pydantic.Field(ge=0.0, lt=1.0)]


class PruneGroup(pydantic.BaseModel, extra="forbid"):
  """One entry of `prune_groups`. What it leaves out comes from the global keys."""

  # Regular expression over parameter paths. The first group that matches a path decides.
  match: _Pattern
  sparsity: _Sparsity | None = None
  scope: _Scope | None = None
  structure: _Structure | None = None
  score: _Score | None = None
  # Shape of the curve; all groups share the steps of their events.
  schedule: _Shape | None = None


def _key(default: Any, meaning: str, **limits: Any) -> Any:
  return pydantic.Field(default, description=meaning, **limits)


class SparsityKeys(pydantic.BaseModel):
  """The keys, their defaults, and in `description` their meanings."""

  sparsity: float = _key(
    0.0,
    "S in [0, 1), the share of the prunable weights that is removed in the end; with 0 MaxText trains as usual",
    ge=0.0,
    lt=1.0,
  )
  pruning_method: Literal["global_gradual", "one-shot", "hold"] = _key(
    "global_gradual",
    "global_gradual prunes in many small events; one-shot prunes everything at the start step; hold keeps the zeros of a "
    "checkpoint",
  )
  pruning_scope: _Scope = _key(
    "global",
    "which weights compete: with global all of them, with per_matrix those of one matrix; erk gives each matrix a share "
    "by its shape",
  )
  pruning_structure: Annotated[_Structure, _OrDefault] = _key(
    "none", "none; n:m keeps n of m neighbours along the contraction axis; block:RxC prunes whole blocks"
  )
  pruning_score: _Score = _key(
    "magnitude",
    "what ranks weights: magnitude, magnitude_rms (relative to the matrix), random, or package.module:function",
  )
  pruning_seed: int = _key(0, "seed of pruning_score=random", ge=0, lt=2**32)
  min_matrix_density: float = _key(0.0, "under scope global, no matrix falls below this density", ge=0.0, lt=1.0)
  prune_groups: Annotated[list[PruneGroup], pydantic.BeforeValidator(_to_groups), _OrDefault] = _key(
    [],
    "rules for groups of parameters, a list of {match: REGEX, sparsity, scope, structure, score, schedule}; the first "
    "that matches a parameter decides",
  )
  pruning_schedule: _Shape = _key("geometric", "density after event i of n: geometric (1-S)^(i/n), cubic or linear")
  gmp_pruning_frequency: int = _key(100, "P, the number of steps between pruning events", ge=1)
  gmp_start_step: int = _key(-1, "step of the first event; -1 derives it from the two fractions", ge=-1)
  gmp_end_step: int = _key(-1, "step of the last event; -1 derives it from the two fractions", ge=-1)
  gmp_dense_fraction: float = _key(0.25, "share of the training before the first event", ge=0.0, le=1.0)
  gmp_prune_fraction: float = _key(0.50, "share of the training from the first event to the last", ge=0.0, le=1.0)
  gmp_fraction_of: Literal["compute", "steps"] = _key("compute", "what the two fractions are shares of: compute or steps")
  gmp_reschedule: bool = _key(False, "true lets a run go on although its schedule has changed")
  do_not_prune_kw: Annotated[str, _OrDefault] = _key("", "parameters whose path contains this text are left dense")
  prune_include: _Patterns = _key([], "regular expressions over parameter paths: prune only these")
  prune_exclude: _Patterns = _key([], "regular expressions over parameter paths: leave these dense")

  @property
  def is_active(self) -> bool:
    """Whether training differs from stock MaxText at all."""
    return self.pruning_method == "hold" or any(rule.sparsity > 0 for _, rule in self.rules)

  @property
  def rules(self) -> tuple[tuple[str | None, PruningRule], ...]:
    """(pattern, rule) of each group in order, then (None, rule) of the parameters that no group matches."""
    return (*((group.match, self._rule_of(group)) for group in self.prune_groups), (None, self.rule))

  @property
  def rule(self) -> PruningRule:
    """The rule of the global keys."""
    structure = parse_structure(self.pruning_structure)
    return PruningRule(
      sparsity=_implied(self.sparsity or None, structure, self.sparsity),
      scope=self.pruning_scope,
      structure=structure,
      score=self.pruning_score,
      schedule=self.pruning_schedule,
      min_matrix_density=self.min_matrix_density,
      seed=self.pruning_seed,
    )

  def _rule_of(self, group: PruneGroup) -> PruningRule:
    # A group that stays dense needs no structure.
    structure = None if group.sparsity == 0 else parse_structure(group.structure or self.pruning_structure)
    scope = group.scope or self.pruning_scope
    # The floor of the global keys is for the scope and structure that it can work with.
    has_floor = scope == "global" and structure is None and group.sparsity != 0
    inherited = self.rule.sparsity if group.structure is None else self.sparsity
    return PruningRule(
      sparsity=_implied(group.sparsity, structure, inherited),
      scope=scope,
      structure=structure,
      score=group.score or self.pruning_score,
      schedule=group.schedule or self.pruning_schedule,
      min_matrix_density=self.min_matrix_density if has_floor else 0.0,
      seed=self.pruning_seed,
    )


def _implied(given: float | None, structure: NOfM | Block | None, inherited: float) -> float:
  """A rule's sparsity: its own, else what n:m implies, else the global one."""
  if given is not None:
    return given
  return 1.0 - structure.density if isinstance(structure, NOfM) else inherited


# Keys that are shares of 1, which people write in percent too.
_SHARES = ("sparsity", "min_matrix_density", "gmp_dense_fraction", "gmp_prune_fraction")
# Longer runs than this are typing errors. Their lists of events would fill the memory.
MOST_STEPS = 100_000_000
KEYS = tuple(SparsityKeys.model_fields)
DEFAULTS: dict[str, Any] = SparsityKeys().model_dump()


def parse_keys(raw: Mapping[str, Any]) -> SparsityKeys:
  """Reads the sparsity keys out of a flat MaxText config and checks each value and their combination.

  Args:
    raw: a flat config; keys that are not ours are read only to find combinations that cannot work.

  Returns:
    The keys. `sparsity` is filled in where `pruning_structure` implies it.

  Raises:
    ConfigError: naming the first key at fault.
  """
  try:
    keys = SparsityKeys(**{name: raw[name] for name in KEYS if name in raw})
  except pydantic.ValidationError as error:
    raise ConfigError(_one_line(error)) from None
  if keys.pruning_structure != "none" and not keys.is_active:
    raise ConfigError(f"pruning_structure={keys.pruning_structure}: needs a sparsity above 0, the share of blocks to go")
  if keys.is_active:
    _check_rules(keys)
    _check_steps(keys)
    _refuse_combinations(keys, raw)
  return keys.model_copy(update={"sparsity": keys.rule.sparsity})


def keys_of(config: Any) -> SparsityKeys:
  """The sparsity keys of a finished MaxText config object (`HyperParameters`), checked when it was built."""
  flat = config.get_keys()
  return SparsityKeys(**{name: flat[name] for name in KEYS if name in flat})


def run_steps(raw: Mapping[str, Any]) -> int:
  """T, the length of the run. MaxText falls back to the learning-rate schedule's length if `steps` is -1.

  Raises:
    ConfigError: the length is not a whole number.
  """
  for name in ("steps", "learning_rate_schedule_steps"):
    value = raw.get(name, -1)
    try:
      steps = int(value)
    except (OverflowError, TypeError, ValueError):
      raise ConfigError(f"{name}={value}: must be a whole number") from None
    if isinstance(value, bool) or (isinstance(value, float) and steps != value):
      raise ConfigError(f"{name}={value}: must be a whole number")
    if steps != -1:
      return steps
  return -1


def check_steps(steps: int, name: str = "steps") -> None:
  """Raises ConfigError, naming the key or option, for a number of steps that no run has."""
  if steps < 1:
    raise ConfigError(f"{name}={steps}: must be a positive number of steps")
  if steps > MOST_STEPS:
    raise ConfigError(f"{name}={steps}: must be at most {MOST_STEPS}")


def _one_line(error: pydantic.ValidationError) -> str:
  first = error.errors()[0]
  reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
  key, *inside = first["loc"]
  if key == "prune_groups" and inside:
    # prune_groups, 0, scope: shown as prune_groups[0].scope.
    key = f"prune_groups[{inside[0]}]" + "".join(f".{part}" for part in inside[1:2])
    if first["type"] == "extra_forbidden":
      reason = f"no such key{did_you_mean(str(inside[1]), PruneGroup.model_fields)}"
    if first["type"] == "missing":
      return f"{key}: is missing, give a regular expression over parameter paths"
  value = first["input"]
  if first["loc"][-1] in ("pruning_structure", "structure"):
    value = _from_sexagesimal(value)
  if first["loc"][-1] in _SHARES:
    reason += meant_share(str(value))
  return f"{key}={value!r}: {reason}"


def _check_rules(keys: SparsityKeys) -> None:
  """Checks each rule by itself, and that a user's score can be imported."""
  if keys.pruning_method == "hold":
    return _check_hold(keys)
  for index, (pattern, rule) in enumerate(keys.rules):
    check_rule(rule, "" if pattern is None else f"prune_groups[{index}].")
    if is_function_name(rule.score):
      load_function(rule.score)
  return None


def _check_hold(keys: SparsityKeys) -> None:
  for name in ("sparsity", "pruning_structure", "prune_groups", "min_matrix_density"):
    if getattr(keys, name) != DEFAULTS[name]:
      raise ConfigError(
        f"{name}={getattr(keys, name)}: pruning_method=hold keeps the zeros there are, set {name}={DEFAULTS[name]}"
      )


def _check_steps(keys: SparsityKeys) -> None:
  """Checks the step and fraction keys against each other; the run's length comes in with the schedule."""
  start, end = keys.gmp_start_step, keys.gmp_end_step
  if keys.pruning_method == "hold":
    return
  if start >= 0 and end < 0 and keys.pruning_method != "one-shot":
    raise ConfigError(f"gmp_start_step={start}: gmp_end_step is missing, give both or neither")
  if end >= 0 and start < 0:
    raise ConfigError(f"gmp_end_step={end}: gmp_start_step is missing, give both or neither")
  if 0 <= end < start:
    raise ConfigError(f"gmp_end_step={end}: must be at least gmp_start_step={start}")
  total = keys.gmp_dense_fraction + (0.0 if keys.pruning_method == "one-shot" else keys.gmp_prune_fraction)
  if start < 0 and total > 1.0 + 1e-9:
    raise ConfigError(
      f"gmp_prune_fraction={keys.gmp_prune_fraction}: with gmp_dense_fraction={keys.gmp_dense_fraction} "
      f"the sum is {total:g}, must be at most 1"
    )


# Features of MaxText under which the algorithm would silently not be what it says.
_WHY_NOT = {
  "enable_diloco": "DiLoCo averages weights outside the optimizer and would revive pruned ones",
  "checkpoint_is_quantized": "the float kernels are not there to be pruned",
}


def _refuse_combinations(keys: SparsityKeys, raw: Mapping[str, Any]) -> None:
  """Refuses other MaxText features that would silently break the algorithm."""
  active = ("sparsity", "pruning_method", "pruning_structure", "prune_groups")
  name = next(key for key in active if getattr(keys, key) != DEFAULTS[key])
  for key, reason in _WHY_NOT.items():
    if raw.get(key):
      raise ConfigError(f"{key}={raw[key]}: {reason}, set {key}=False or {name}={DEFAULTS[name]}")
  if raw.get("use_dpo") and keys.pruning_method != "hold":
    others = [key for key in active if key != "pruning_method" and getattr(keys, key) != DEFAULTS[key]]
    raise ConfigError(
      "use_dpo=True: preference training resumes without its optimizer, and a schedule would begin anew; prune first, "
      f"then set pruning_method=hold and leave out {', '.join(others)}"
    )
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
    hint = did_you_mean(key, KEYS, cutoff=0.75) if key not in known else ""
    if hint:
      raise ConfigError(f"{key}={raw[key]}: no such key{hint}")
