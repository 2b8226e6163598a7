"""Writes texts so that they arrive in the pod unchanged.

A text passes through YAML, Kubernetes and bash, in this order, and each of them has its own special characters. xpk
pastes the command into a YAML block scalar and each variable between double quotes, and escapes neither. A block scalar
has no escapes, so the command must be one line of printable characters. bash then undoes what `shell_word` did. Plain
values are left as they are, so that the manifest reads like what the user typed.
"""

import math
import re
import shlex
from typing import Any

from maxtext_sparse.arguments import parse_value
from maxtext_sparse.errors import ConfigError

# Text that means the same in YAML with and without quotes, unless it looks like a number, a boolean or null.
_PLAIN = re.compile(r"[A-Za-z/][\w./:@+*=~-]*", re.ASCII)


def to_text(value: Any) -> str:
  """Writes a value so that MaxText reads it back from `key=text`. The text is plain wherever that is possible.

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
      return value if _PLAIN.fullmatch(value) and parse_value(f"[{value}]") == [value] else yaml_quoted(value)
    case list():
      return "[" + ",".join(map(to_text, value)) + "]"
    case dict():
      return "{" + ", ".join(f"{to_text(key)}: {to_text(item)}" for key, item in value.items()) + "}"
  raise ConfigError(f"{value!r}: is a {type(value).__name__}, must be text, a number, a list or a mapping")


def shell_word(text: str) -> str:
  """Quotes `text` as one word of a bash command. The result is one line of printable characters.

  Raises:
    ConfigError: `text` has a line break or a NUL.
  """
  refuse_line_breaks(text)
  if text.isprintable():
    return shlex.quote(text)
  # Escapes of bytes, not of code points, do not depend on the locale of the pod.
  return "$'" + "".join(_ansi_c(character) for character in text) + "'"


def kubernetes_literal(text: str) -> str:
  """Escapes `text` for a pod's `command` or `env`, where Kubernetes replaces `$(NAME)` and turns `$$` into `$`."""
  return re.sub(r"\$(?=[$(])", "$$", text)


def yaml_quoted(text: str) -> str:
  """Writes `text` as a double-quoted YAML scalar of one line of printable characters."""
  return '"' + "".join(_yaml_character(character) for character in text) + '"'


def refuse_line_breaks(text: str) -> None:
  """Raises ConfigError if `text` has a line break or a NUL."""
  if set(text) & set("\n\r\0"):
    raise ConfigError(f"{text[:60]!r}: has a line break or a NUL, must be one line")


def _ansi_c(character: str) -> str:
  """One character inside bash's $'...'."""
  if character in "'\\":
    return "\\" + character
  return character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in character.encode())


def _yaml_character(character: str) -> str:
  if character in '"\\':
    return "\\" + character
  return character if character.isprintable() else f"\\U{ord(character):08x}"
