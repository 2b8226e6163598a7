"""Reads MaxText config files: one file, several merged, or a chain of `base_config` down to MaxText's own."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
import importlib.util
import os
import re
from typing import Any

import yaml

from maxtext_sparse.errors import ConfigError, nearest

# MaxText's defaults. Every chain ends here unless it names another of MaxText's files.
STOCK = "base.yml"
_STOCK_MARK = "/maxtext/configs/"
STOCK_FOLDER = "src/maxtext/configs/"


class Loader(yaml.SafeLoader):
  """Reads YAML as MaxText does, which uses OmegaConf: 1e-3 is a number, a date is text, no key appears twice."""

  def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
    """Builds a mapping, and raises ConstructorError if a key appears twice in it."""
    seen = set()
    for key, _ in node.value:
      if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
        if key.value in seen:
          raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} is there twice", key.start_mark)
        seen.add(key.value)
    return super().construct_mapping(node, deep)


Loader.yaml_implicit_resolvers = {
  first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
  for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Dumper(yaml.SafeDumper):
  """Quotes text that MaxText would take for a number, such as a run named 12e5."""


for _side in (Loader, Dumper):
  # PyYAML itself wants a dot in every number with an exponent.
  _side.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
  )


def read_config(path: str, file_kind: str = "config file", content_kind: str = "MaxText config") -> dict[str, Any]:
  """Reads one file's keys, without those of its base.

  Args:
    path: the file.
    file_kind: what an error calls a file that cannot be read.
    content_kind: what an error says that the content is not.

  Raises:
    ConfigError: `path` is missing, no text file, not YAML, empty, or not a mapping from names to values.
  """
  try:
    content = parse_yaml(_read_text(path, file_kind))
  except ValueError as error:
    raise ConfigError(f"{path}: {error}") from None
  if content is None:
    raise ConfigError(f"{path}: is empty, a {content_kind} needs at least one line `key: value`")
  if not isinstance(content, dict):
    raise ConfigError(f"{path}: is not a {content_kind}, must be a YAML mapping of lines `key: value`")
  for key in content:
    if not isinstance(key, str):
      raise ConfigError(f"{path}: the key {key!r} is not a name")
  base = content.get("base_config")
  if "base_config" in content and not (isinstance(base, str) and base):
    raise ConfigError(f"{path}: base_config={base!r} must be the path of a config file")
  return content


def parse_yaml(text: str) -> Any:
  """Parses a YAML text as MaxText does, such as a file's or the value in `key=value`.

  Raises:
    ValueError: `text` is not YAML. The message is one line without the text's name.
  """
  try:
    return yaml.load(text, Loader=Loader)
  except yaml.reader.ReaderError:
    raise ValueError("is not a text file, it has control characters") from None
  except yaml.MarkedYAMLError as error:
    raise ValueError(_yaml_reason(error)) from None
  except RecursionError:
    raise ValueError("is not YAML that MaxText can read, it is nested too deeply") from None
  except ValueError as error:  # such as the number 0b or the date 2026-99-99 under an explicit tag
    raise ValueError(f"is not YAML that MaxText can read ({error})") from None


def merge_configs(paths: Sequence[str]) -> dict[str, Any]:
  """Merges the keys of several config files. Later files win, and all of them share one `base_config`.

  A base that lies beside its file is returned as an absolute path, one of MaxText's own as it was written.

  Raises:
    ConfigError: a file cannot be read, or two files name different bases.
  """
  merged: dict[str, Any] = {}
  for path in paths:
    content = read_config(path)
    base = _find_base(path, content.pop("base_config", None))
    if base and merged.get("base_config", base) != base:
      raise ConfigError(f"base_config={base}: {path} names another base than the files before it, keep one")
    merged = merge(merged, content) | ({"base_config": base} if base else {})
  return {**merged, "base_config": merged.get("base_config", STOCK)}


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
  """Adds the keys of all local bases to the result of `merge_configs`. `base_config` becomes one of MaxText's own names.

  Raises:
    ConfigError: a base cannot be read, or is based on itself.
  """
  flat = dict(config)
  for path, content in _local_bases(config["base_config"]):
    flat = merge(content, flat) | {"base_config": _find_base(path, content.get("base_config")) or STOCK}
  return flat | {"base_config": stock_name(flat["base_config"]) or flat["base_config"]}


def read_local_files(paths: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Reads the config files of a run that are not MaxText's own: `paths`, and then the files that they are based on.

  Returns:
    Path -> the file's own keys.

  Raises:
    ConfigError: as for `merge_configs` and `flatten`.
  """
  contents = {path: read_config(path) for path in paths if not stock_name(path)}
  bases = {base for path, content in contents.items() if (base := _find_base(path, content.get("base_config")))}
  if len(bases) > 1:
    raise ConfigError(f"base_config={max(bases)}: another of the files is based on {min(bases)}, keep one base")
  for base in bases:
    contents |= dict(_local_bases(base))
  return contents


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
  """Merges as OmegaConf does: mappings key by key, anything else is replaced."""
  merged = dict(below)
  for key, value in above.items():
    both = isinstance(value, dict) and isinstance(merged.get(key), dict)
    merged[key] = merge(merged[key], value) if both else value
  return merged


def dump(config: Mapping[str, Any], **style: Any) -> str:
  """Writes YAML that MaxText reads back unchanged, keys in their order. `style` is passed to `yaml.dump`."""
  text: str = yaml.dump(dict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, **style)
  return text


def stock_name(path: str) -> str | None:
  """Returns the name by which any MaxText finds its own config `path`, or None if `path` is a file of the user."""
  if _STOCK_MARK in os.path.abspath(path):
    return os.path.abspath(path).rpartition(_STOCK_MARK)[2]
  name = path.removeprefix(STOCK_FOLDER)
  is_stock = not os.path.exists(path) and (name == STOCK or stock_file(name) is not None)
  return name if is_stock else None


def is_stock(path: str) -> bool:
  """Whether `path` is one of MaxText's own configs. Without an installed MaxText, a path of that form is believed."""
  name = stock_name(path)
  return name is not None and (name == STOCK or maxtext_folder("configs") is None or stock_file(name) is not None)


def stock_file(name: str) -> str | None:
  """Returns the path of the installed MaxText's config `name`, or None if there is no such file."""
  folder = maxtext_folder("configs")
  path = os.path.join(folder or "", name)
  return path if folder and not os.path.isabs(name) and os.path.isfile(path) else None


def stock_text(name: str, key: str) -> str | None:
  """Returns the text of a key's value in one of MaxText's own configs or its bases, None if it is in none of them.

  base.yml has 800 keys, and reading all of them as YAML takes a second.
  """
  path = stock_file(name)
  if path is None:
    return None
  with open(path, encoding="utf-8") as file:
    text = file.read()
  values = [re.search(rf"^{wanted}:[ ]*[\"']?([^\s\"'#]+)", text, re.MULTILINE) for wanted in (key, "base_config")]
  if values[0] or not values[1] or values[1][1] == name:
    return values[0][1] if values[0] else None
  return stock_text(values[1][1], key)


def maxtext_folder(name: str) -> str | None:
  """Returns a folder of the MaxText that would be imported, without importing it. None if there is none."""
  spec = importlib.util.find_spec("maxtext")
  locations = spec.submodule_search_locations if spec else None
  folder = os.path.join(locations[0], name) if locations else ""
  return folder if os.path.isdir(folder) else None


def near_file(path: str) -> str:
  """Returns ', did you mean X?' if a similarly named config exists beside `path`, otherwise ''."""
  if os.path.exists(path):
    return ""
  folder, name = os.path.split(path)
  present = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
  near = nearest(name, [file for file in present if file.endswith(".yml")])
  return f", did you mean {os.path.join(folder, near)}?" if near else ""


def _read_text(path: str, file_kind: str) -> str:
  """Reads a regular file. Opening a pipe or a device could wait for ever."""
  if os.path.exists(path) and not os.path.isfile(path):
    raise ValueError(f"is {'a folder' if os.path.isdir(path) else 'not a regular file'}, must be a {file_kind}")
  try:
    with open(path, encoding="utf-8") as file:
      return file.read()
  except UnicodeDecodeError:
    raise ValueError("is not a text file, must be UTF-8") from None
  except OSError as error:
    raise ValueError(f"cannot read this {file_kind} ({error.strerror}){near_file(path)}") from None


def _yaml_reason(error: yaml.MarkedYAMLError) -> str:
  """One line on what is wrong and where. Lines and columns count from 1, as in an editor."""
  mark = error.problem_mark or error.context_mark
  where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
  problem = " ".join(str(error.problem or error.context).split())
  if "'\\t'" in problem:
    problem = "there is a tab, YAML is indented with spaces"
  return f"is not YAML that MaxText can read, {where}: {problem}"


def _local_bases(base: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (path, keys) of each file from `base` on, down to MaxText's own file, which is not yielded."""
  seen: list[str] = []
  while os.path.isabs(base) and not stock_name(base):
    if base in seen:
      raise ConfigError(f"base_config={base}: this file is based on itself, the last base must be {STOCK}")
    seen.append(base)
    content = read_config(base)
    yield base, content
    base = _find_base(base, content.get("base_config")) or STOCK


def _find_base(path: str, base: str | None) -> str | None:
  """Finds a base as MaxText does: beside the file first, then among MaxText's own configs.

  Raises:
    ConfigError: it is in neither place. Without an installed MaxText the second place is not known.
  """
  if not base or (os.path.isabs(base) and os.path.isfile(base)):
    return base
  beside = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(path)), base))
  if os.path.isfile(beside):
    return beside
  is_unknown = maxtext_folder("configs") is None and not os.path.isabs(base)
  if is_stock(base) or is_unknown:
    return base
  raise ConfigError(f"{path}: base_config={base}: no such file{near_file(beside)}")
