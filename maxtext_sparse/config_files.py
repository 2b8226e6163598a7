"""MaxText config files: reading one, merging several, and following `base_config` down to MaxText's own."""

from collections.abc import Mapping, Sequence
import difflib
import os
import re
from typing import Any

import yaml

from maxtext_sparse.errors import ConfigError

# MaxText's defaults, the end of every chain that does not name another of its files.
STOCK = "base.yml"
_STOCK_MARK = "/maxtext/configs/"
STOCK_FOLDER = "src/maxtext/configs/"
_MAX_CHAIN = 20


class Loader(yaml.SafeLoader):
  """Scalars as MaxText reads them, which uses OmegaConf: 1e-3 is a number, a date is text."""


Loader.yaml_implicit_resolvers = {
  first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
  for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Dumper(yaml.SafeDumper):
  """Quotes text that MaxText would take for a number, such as a run named 12e5."""


for _side in (Loader, Dumper):
  _side.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
  )


def read_config(path: str, file_kind: str = "config file", content_kind: str = "MaxText config") -> dict[str, Any]:
  """One file's keys, without those of its base.

  Args:
    path: the file.
    file_kind: what an error calls a file that cannot be read.
    content_kind: what an error says that the content is not.

  Raises:
    ConfigError: unreadable, not YAML, or not a mapping.
  """
  try:
    with open(path, encoding="utf-8") as file:
      content = yaml.load(file, Loader=Loader)
  except (OSError, UnicodeDecodeError) as error:
    reason = getattr(error, "strerror", None) or "not UTF-8"
    raise ConfigError(f"{path}: cannot read this {file_kind} ({reason}){near_file(path)}") from error
  except yaml.YAMLError as error:
    raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
  if not isinstance(content, dict):
    raise ConfigError(f"{path}: not a {content_kind}, must be a YAML mapping")
  return content


def parse_yaml(text: str) -> Any:
  """The content of a YAML text, such as a file's or the value in `key=value`."""
  return yaml.load(text, Loader=Loader)


def merge_configs(paths: Sequence[str]) -> dict[str, Any]:
  """Keys of several config files, later ones winning; they share the one `base_config` that any of them names.

  A base beside its file comes back as an absolute path, one of MaxText's as it was written.

  Raises:
    ConfigError: a file cannot be read, or two name different bases.
  """
  merged: dict[str, Any] = {}
  for path in paths:
    content = read_config(path)
    base = _absolute_base(path, content.pop("base_config", None))
    if base and merged.get("base_config", base) != base:
      raise ConfigError(f"base_config={base}: {path} names another base than the files before it, keep one")
    merged = merge(merged, content) | ({"base_config": base} if base else {})
  return {**merged, "base_config": merged.get("base_config", STOCK)}


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
  """The keys of `merge_configs` over those of their local bases; `base_config` is then a file of MaxText's, by its name.

  Raises:
    ConfigError: a base cannot be read, or is based on itself.
  """
  flat = dict(config)
  for _ in range(_MAX_CHAIN):
    base = flat.pop("base_config")
    name = stock_name(base)
    if name or not os.path.isabs(base):
      return {**flat, "base_config": name or base}
    below = merge_configs([base])
    flat = {**merge(below, flat), "base_config": below["base_config"]}
  raise ConfigError(f"base_config={base}: the files are based on each other, one must be based on {STOCK}")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
  """As OmegaConf: mappings key by key, anything else replaced."""
  merged = dict(below)
  for key, value in above.items():
    both = isinstance(value, dict) and isinstance(merged.get(key), dict)
    merged[key] = merge(merged[key], value) if both else value
  return merged


def dump(config: Mapping[str, Any], **style: Any) -> str:
  """YAML that MaxText reads back as it is, keys in their order; `style` as for `yaml.dump`."""
  return yaml.dump(dict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, **style)


def stock_name(path: str) -> str | None:
  """The name by which any MaxText finds one of its own configs; None for a file of the user."""
  if path in (STOCK, STOCK_FOLDER + STOCK) and not os.path.exists(path):
    return STOCK
  return path.rpartition(_STOCK_MARK)[2] if _STOCK_MARK in os.path.abspath(path) else None


def near_file(path: str) -> str:
  """A hint at the config file that a path which is none may mean, empty where none is near."""
  if os.path.exists(path):
    return ""
  folder, name = os.path.split(path)
  present = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
  near = difflib.get_close_matches(name, [file for file in present if file.endswith(".yml")], n=1)
  return f", did you mean {os.path.join(folder, near[0])}?" if near else ""


def _absolute_base(path: str, base: str | None) -> str | None:
  """Relative bases are looked up beside the file first and in MaxText's own folder else, as MaxText does."""
  if not base or os.path.isabs(base):
    return base
  beside = os.path.join(os.path.dirname(os.path.abspath(path)), base)
  return beside if os.path.isfile(beside) else base
