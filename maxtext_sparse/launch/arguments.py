"""A run as MaxText's own name of a base config and `key=value` arguments, so that no local file has to reach the pod."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import os
import re
from typing import Any

import yaml

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.launch.quoting import refuse_line_breaks, yaml_quoted
from maxtext_sparse.launcher import merge_configs

_KEY = re.compile(r"[A-Za-z_][\w.\[\]-]*")
_PLAIN = re.compile(r"[A-Za-z/][\w./:@+*=~-]*", re.ASCII)
_STOCK_MARK = "/maxtext/configs/"
_STOCK_FOLDER = "src/maxtext/configs/"


class _Loader(yaml.SafeLoader):
  """Scalars as MaxText reads them, which uses OmegaConf: 1e-3 is a number, a date is text."""


_Loader.yaml_implicit_resolvers = {
  first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
  for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
  "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


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
  stock = [name for config in configs if (name := _stock_name(config))]
  local = [config for config in configs if not _stock_name(config)]
  base, keys = _follow(_parse_config(merge_configs(local), local[-1])) if local else ([*stock, "base.yml"][0], {})
  for other in stock:
    if other != base:
      raise ConfigError(f"{other}: the other configs are based on {base}, keep one base")
  return Arguments(base, keys, overrides)


def read_config(path: str) -> Arguments:
  """The run of a single config file."""
  return read_arguments([path])


def parse(text: str) -> Any:
  """The value of `key=text`."""
  try:
    return yaml.load(text, Loader=_Loader)
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


def _stock_name(config: str) -> str | None:
  """The name by which the pod finds one of MaxText's own configs; None for a file of the user."""
  if config in ("base.yml", _STOCK_FOLDER + "base.yml") and not os.path.exists(config):
    return "base.yml"
  return config.rpartition(_STOCK_MARK)[2] if _STOCK_MARK in os.path.abspath(config) else None


def _follow(keys: dict[str, Any]) -> tuple[str, dict[str, Any]]:
  """MaxText's own base of `keys`, and the keys with those of the local bases below them."""
  base = keys.pop("base_config")
  if not os.path.isabs(base) or _stock_name(base):
    return _stock_name(base) or base, _as_arguments(keys)
  return _follow(_merge(_parse_config(merge_configs([base]), base), keys))


def _as_arguments(keys: dict[str, Any]) -> dict[str, Any]:
  """MaxText takes a file's axis rules as they are, and an argument's too if it is told so."""
  return keys | ({"override_logical_axis_rules": True} if "logical_axis_rules" in keys else {})


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
  """As OmegaConf: mappings key by key, anything else replaced. `base_config` stays that of `below`."""
  merged = dict(below)
  for key, value in above.items():
    both = isinstance(value, dict) and isinstance(merged.get(key), dict)
    merged[key] = _merge(merged[key], value) if both else value
  return merged


def _parse_config(text: str, path: str) -> dict[str, Any]:
  keys = yaml.load(text, Loader=_Loader)
  bad = [key for key in keys if not isinstance(key, str) or not _KEY.fullmatch(key)]
  if bad:
    raise ConfigError(f"{path}: {bad[0]!r} is not a key of MaxText")
  return keys
