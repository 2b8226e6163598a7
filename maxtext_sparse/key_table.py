"""The sparsity keys as a list for people: a table, JSON objects, and a block of YAML to paste into a config file."""

import dataclasses
import json
import textwrap
from typing import Any, get_args, get_origin, Literal, TYPE_CHECKING

from pydantic.fields import FieldInfo

from maxtext_sparse.config import DEFAULTS, SparsityKeys
from maxtext_sparse.config_files import dump
from maxtext_sparse.terminal import new_table, print_table

if TYPE_CHECKING:
  from rich.console import Console

_WIDTH = 80
_LIMITS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))
_TYPE_NAMES = {float: "number", int: "whole number", bool: "true or false", str: "text"}


@dataclasses.dataclass(frozen=True)
class Key:
  """One sparsity key.

  Attributes:
    name: its name in a config.
    default: its value if a config does not set it.
    values: what it may be set to, in words.
    meaning: what it does, in words.
  """

  name: str
  default: Any
  values: str
  meaning: str

  @property
  def as_argument(self) -> str:
    """The key with its default as `key=value`."""
    return f"{self.name}={_default_text(self.default)}"

  def to_dict(self) -> dict[str, Any]:
    """The key for JSON."""
    return {"key": self.name, "default": self.default, "values": self.values, "meaning": self.meaning}


def describe_keys() -> list[Key]:
  """Returns all keys in their order."""
  fields = SparsityKeys.model_fields
  return [Key(name, DEFAULTS[name], _values(field), field.description or "") for name, field in fields.items()]


def to_yaml() -> str:
  """Returns a block for a config file that sets every key to its default, each below a comment."""
  lines = ["# Sparse pre-training with maxtext-sparse. Each key has its default here."]
  for key in describe_keys():
    text = f"{key.meaning} ({key.values})" if key.meaning else key.values
    lines += textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")
    lines.append(dump({key.name: key.default}, default_flow_style=True).strip().strip("{}"))
  return "\n".join(lines) + "\n"


def print_keys(console: "Console") -> None:
  """Prints a table of all keys."""
  table = new_table(["key", "default", "meaning"], left=["default", "meaning"], wrapped=["meaning"])
  for key in describe_keys():
    table.add_row(key.name, _default_text(key.default), key.meaning or key.values)
  print_table(console, table)


def _values(field: FieldInfo) -> str:
  """The allowed values of a key: its choices, or its type with bounds."""
  kind = field.annotation
  if get_origin(kind) is Literal:
    *others, last = get_args(kind)
    return f"{', '.join(others)} or {last}"
  if get_origin(kind) is list:
    return "list of texts" if get_args(kind) == (str,) else "list of rules"
  limits = [(words, getattr(rule, limit, None)) for rule in field.metadata for limit, words in _LIMITS]
  name = _TYPE_NAMES.get(kind or str, "text")
  return ", ".join([name, *(f"{words} {value:.12g}" for words, value in limits if value is not None)])


def _default_text(value: Any) -> str:
  return value if isinstance(value, str) and value else json.dumps(value)
