"""The package's own errors. Each message is one line that names what is wrong and what would be right."""

from collections.abc import Iterable, Iterator
import contextlib
import contextvars
import difflib
import os
import sys
import textwrap


class ConfigError(ValueError):
  """A key or an argument has a value that cannot work."""

  exit_status = 2


class HookError(RuntimeError):
  """The plugin does not fit the installed MaxText."""

  exit_status = 2


class RunError(RuntimeError):
  """A run cannot go on, or it ended before a sparse run may end."""

  exit_status = 1


class StoppedError(RunError):
  """A run was stopped from outside, for example preempted. It goes on when it is started again."""

  # xpk restarts a workload that ends with this status.
  exit_status = 42


class InterruptError(StoppedError):
  """A run was stopped by Ctrl-C."""

  exit_status = 130


# Whether this runs in a `one_line_errors` already.
_is_inside = contextvars.ContextVar("maxtext_sparse_one_line_errors", default=False)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Prints the package's own errors as one line and exits with their status. Other errors pass through.

  Where several of these are nested, the outermost prints: what a run prints may go into its log, and the line must not.
  """
  if _is_inside.get():
    yield
    return
  token = _is_inside.set(True)
  try:
    yield
  except (ConfigError, HookError, RunError) as error:
    print_error(error)
    sys.exit(error.exit_status)
  finally:
    _is_inside.reset(token)


def print_error(reason: object) -> None:
  """Prints the one line of an error."""
  print_aside(f"maxtext-sparse: error: {reason}")


def print_aside(line: str) -> None:
  """Prints a line on stderr. A terminal breaks it between words only: half a path is of no use."""
  if sys.stderr is not None and sys.stderr.isatty():  # what is piped stays one line
    width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
    line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
  print(line, file=sys.stderr)


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
  """The choice that is spelt most like `word`, None if none is at least `cutoff` alike (0 to 1)."""
  matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)
  return matches[0] if matches else None


def did_you_mean(word: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
  """', did you mean X?' for the end of a message, '' if no choice is near."""
  near = nearest(word, choices, cutoff)
  return f", did you mean {near}?" if near else ""
