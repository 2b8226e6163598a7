"""Texts that arrive to the letter: through YAML, Kubernetes and bash, in this order, each with its own syntax.

xpk pastes the command into a YAML block scalar and each variable between double quotes, and escapes neither. A block
scalar has no escapes, so a command must be one line of printable characters; bash then undoes what `shell_word` did.
Plain values stay as they are: the manifest reads as what was typed.
"""

import re
import shlex

from maxtext_sparse.errors import ConfigError


def shell_word(text: str) -> str:
  """`text` as one word of a bash command that is itself one printable line.

  Raises:
    ConfigError: `text` has a line break or a NUL.
  """
  refuse_line_breaks(text)
  if text.isprintable():
    return shlex.quote(text)
  # Bytes, not code points: they do not depend on the locale of the pod.
  return "$'" + "".join(_ansi_c(character) for character in text) + "'"


def kubernetes_literal(text: str) -> str:
  """`text` for a pod's `command` or `env`, where Kubernetes replaces `$(NAME)` and turns `$$` into `$`."""
  return re.sub(r"\$(?=[$(])", "$$", text)


def yaml_quoted(text: str) -> str:
  """`text` as a double-quoted YAML scalar: one line, printable."""
  return '"' + "".join(_yaml_character(character) for character in text) + '"'


def refuse_line_breaks(text: str) -> None:
  """Raises ConfigError where `text` has a line break or a NUL."""
  if set(text) & set("\n\r\0"):
    raise ConfigError(f"{text[:60]!r}: has a line break or a NUL, must be one line")


def _ansi_c(character: str) -> str:
  if character in "'\\":
    return "\\" + character
  return character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in character.encode())


def _yaml_character(character: str) -> str:
  if character in '"\\':
    return "\\" + character
  return character if character.isprintable() else f"\\U{ord(character):08x}"
