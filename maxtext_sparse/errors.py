"""The package's own errors. Each message is one line that names what is wrong and what would be right."""

from collections.abc import Iterator
import contextlib
import sys


class ConfigError(ValueError):
  """A key or an argument has a value that cannot work."""

  exit_status = 2


class HookError(RuntimeError):
  """The installed MaxText is not one that the plugin fits."""

  exit_status = 2


class RunError(RuntimeError):
  """A run cannot go on, or did not end as a sparse run must."""

  exit_status = 1


class StoppedError(RunError):
  """A run was stopped from outside, preempted for example, and goes on when it is started again."""

  # xpk restarts a workload that ends so.
  exit_status = 42


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Prints the package's own errors as one line and exits with their status; others pass through."""
  try:
    yield
  except (ConfigError, HookError, RunError) as error:
    print(f"maxtext-sparse: error: {error}", file=sys.stderr)
    sys.exit(error.exit_status)
