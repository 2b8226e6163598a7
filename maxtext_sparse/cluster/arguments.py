"""A run as MaxText's own name of a base config and `key=value` arguments, so that no local file has to reach the pod."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import re
from typing import Any

import yaml

from maxtext_sparse.cluster.quoting import refuse_line_breaks, yaml_quoted
from maxtext_sparse.config_files import flatten, Loader, merge_configs, STOCK, stock_name
from maxtext_sparse.errors import ConfigError

_KEY = re.compile(r"[A-Za-z_][\w.\[\]-]*")
_PLAIN = re.compile(r"[A-Za-z/][\w./:@+*=~-]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Arguments:
  """What a run's command line says after `python3 -m maxtext_sparse.train`.

  Attributes:
    base: MaxText's own config, such as `base.yml`.
    keys: keys of the config files, in order.
    overrides: `key=value` texts as given, which win.
  """

  base: str
  keys: Mapping[str, Any]
  overrides: tuple[str, ...] = ()

  @property
  def values(self) -> dict[str, Any]:
    """The values that the run will have, without those that only MaxText's base config says."""
    given = (override.partition("=") for override in self.overrides)
    return {**self.keys, **{key: parse(text) for key, _, text in given}}

  def with_default(self, key: str, value: Any) -> "Arguments":
    """The same with a value for a key that is missing or empty."""
    given = f"{key}={to_text(value)}"
    return self if self.values.get(key) else dataclasses.replace(self, overrides=(*self.overrides, given))

  def words(self) -> list[str]:
    """The command line's words. An overridden key appears once, except mappings: MaxText merges those."""
    overridden = {override.partition("=")[0] for override in self.overrides}
    kept = {key: value for key, value in self.keys.items() if key not in overridden or isinstance(value, dict)}
    return [self.base, *(f"{key}={to_text(value)}" for key, value in kept.items()), *self.overrides]


def read_arguments(words: Sequence[str]) -> Arguments:
  """Reads `CONFIG [CONFIG ...] [key=value ...]` as `train` does, and the chain of `base_config` of local files.

  Raises:
    ConfigError: a file is missing or not a config, or an argument is neither a file nor key=value.
  """
  configs = [word for word in words if "=" not in word]
  overrides = tuple(word for word in words if "=" in word)
  for override in overrides:
    _check_override(override)
  stock = [name for config in configs if (name := stock_name(config))]
  local = [config for config in configs if not stock_name(config)]
  flat = flatten(merge_configs(local)) if local else {"base_config": [*stock, STOCK][0]}
  base = flat.pop("base_config")
  for other in stock:
    if other != base:
      raise ConfigError(f"{other}: the other configs are based on {base}, keep one base")
  return Arguments(base, _checked(flat, local[-1]) if local else {}, overrides)


def read_config(path: str) -> Arguments:
  """The run of a single config file."""
  return read_arguments([path])


def parse(text: str) -> Any:
  """The value of `key=text`."""
  try:
    return yaml.load(text, Loader=Loader)
  except yaml.YAMLError as error:
    raise ConfigError(f"{text[:60]!r}: not a value that MaxText can read, which is YAML; quote it once more") from error


def to_text(value: Any) -> str:
  """The text that MaxText reads back as `value`; plain where that is possible.

  Raises:
    ConfigError: `value` is not made of mappings, lists, texts, numbers, booleans and null.
  """
  match value:
    case None | bool():
      return {None: "null", True: "true", False: "false"}[value]
    case int():
      return str(value)
    case float():
      return repr(value) if math.isfinite(value) else f"{value:f}".replace("inf", ".inf").replace("nan", ".nan")
    case str():
      return value if _PLAIN.fullmatch(value) and parse(f"[{value}]") == [value] else yaml_quoted(value)
    case list():
      return "[" + ",".join(map(to_text, value)) + "]"
    case dict():
      return "{" + ", ".join(f"{to_text(key)}: {to_text(item)}" for key, item in value.items()) + "}"
  raise ConfigError(f"{value!r}: a {type(value).__name__}, must be text, a number, a list or a mapping")


def _check_override(override: str) -> None:
  refuse_line_breaks(override)
  key, _, text = override.partition("=")
  if not _KEY.fullmatch(key):
    raise ConfigError(f"{override[:60]}: must be key=value, with a key of MaxText")
  parse(text)


def _checked(keys: Mapping[str, Any], path: str) -> dict[str, Any]:
  """MaxText takes a file's axis rules as they are, and an argument's too if it is told so."""
  bad = [key for key in keys if not isinstance(key, str) or not _KEY.fullmatch(key)]
  if bad:
    raise ConfigError(f"{path}: {bad[0]!r} is not a key of MaxText")
  return {**keys, **({"override_logical_axis_rules": True} if "logical_axis_rules" in keys else {})}
