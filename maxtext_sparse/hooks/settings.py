"""The sparsity settings of a MaxText config: its keys, parsed once, and the schedule that they give, built once.

The hook on MaxText's config loader parses and checks the keys before any device is touched (`parse_settings`). Everything
later, from the optimizer to the step line, asks for the result by the config object (`settings_of`). In between MaxText
builds its own config classes, a different one in each release and in patched trees, so the two cannot share an object.
They share the values: equal keys and an equal number of steps have one `Settings`, whichever config they stand in.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import pydantic

from maxtext_sparse.config import KEYS, parse_keys, run_steps, SparsityKeys
from maxtext_sparse.schedule import build_schedule, Schedule

# What the settings depend on: our keys, and the two keys that give the number of steps.
_RELEVANT = (*KEYS, "steps", "learning_rate_schedule_steps")
# A process rarely has more than two configs; a long one that reads many forgets the oldest and parses it again.
_MAX_KNOWN = 256

_known: dict[tuple[str, ...], "Settings"] = {}


@dataclasses.dataclass(frozen=True)
class Settings:
  """What one config asks for.

  Attributes:
    keys: the sparsity keys.
    schedule: when weights are pruned and to which density; None if the keys leave MaxText as it is.
  """

  keys: SparsityKeys
  schedule: Schedule | None

  def describe(self) -> str:
    """The key that makes training sparse, for the beginning of an error message."""
    return f"sparsity={self.keys.sparsity}" if self.keys.sparsity else f"pruning_method={self.keys.pruning_method}"


def parse_settings(raw: Mapping[str, Any]) -> Settings:
  """Parses the sparsity keys of a flat config and builds the schedule.

  Args:
    raw: the config; keys that are not ours are read only to find combinations that cannot work.

  Raises:
    ConfigError: naming the key at fault.
  """
  keys, steps = parse_keys(raw), run_steps(raw)
  settings = Settings(keys, build_schedule(keys, steps) if keys.is_active else None)
  _remember(keys.model_dump(), steps, settings)
  return settings


def settings_of(config: Any) -> Settings | None:
  """The settings of a finished config object; None for an object that is not a MaxText config with our keys.

  MaxText's tests, and programs that use its functions, pass namespaces, dataclasses and mocks where training passes
  `HyperParameters`. Every hook asks here first and leaves MaxText alone when the answer is None.
  """
  values = values_of(config)
  if values is None:
    return None
  found = _known.get(_fingerprint(values, run_steps(values)))
  if found is None:  # the config was built before the plugin was installed, or came from another process
    found = parse_settings({name: values[name] for name in _RELEVANT if name in values})
    _remember(values, run_steps(values), found)
  return found


def schedule_of(config: Any) -> Schedule | None:
  """The schedule of a sparse run's config. None for a dense one, and for an object that is not a MaxText config."""
  settings = settings_of(config)
  return settings.schedule if settings is not None else None


def is_maxtext_config(config: Any) -> bool:
  """Whether hooks may rely on MaxText's keys in this object."""
  return values_of(config) is not None


def values_of(config: Any) -> Mapping[str, Any] | None:
  """The flat values of MaxText's two kinds of config object, `HyperParameters` and the pydantic model inside it.

  None for an object that is neither, or that has no sparsity keys.
  """
  if isinstance(config, pydantic.BaseModel):
    values: Any = vars(config)
  else:
    get_keys = getattr(config, "get_keys", None)
    values = get_keys() if callable(get_keys) else None
  # A mock has a `get_keys` too, which returns another mock.
  return values if isinstance(values, dict) and "sparsity" in values else None


def _remember(values: Mapping[str, Any], steps: int, settings: Settings) -> None:
  _known[_fingerprint(values, steps)] = settings
  if len(_known) > _MAX_KNOWN:
    del _known[next(iter(_known))]


def _fingerprint(values: Mapping[str, Any], steps: int) -> tuple[str, ...]:
  return (str(steps), *(repr(values.get(name)) for name in KEYS))
