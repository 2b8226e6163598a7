"""MaxText's own errors in one line: its reason first, then the hint that helps, then how to see the rest."""

from collections.abc import Iterator
import contextlib
import re
import sys

from maxtext_sparse.errors import ConfigError, HookError, RunError

_LONGEST = 400
_INTERRUPTED_STATUS = 130
# What MaxText or jax says -> what helps.
_HINTS = (
  (
    r"coordinator_address|[Uu]nable to initialize backend|TPU initialization|No visible TPU|[Cc]loud TPU|"
    r"distributed\.initialize|metadata\.google",
    "on a machine without an accelerator add hardware=cpu skip_jax_distributed_system=True",
  ),
  (r"DefaultCredentialsError|default credentials", "the output is in Google Cloud, log in or give a local folder"),
  (r"RESOURCE_EXHAUSTED|[Oo]ut of memory", "lower per_device_batch_size, or use more devices"),
  (r"[Nn]o space left", "free some room on that disk; the run goes on from its last checkpoint"),
)


@contextlib.contextmanager
def in_one_line(has_traceback: bool = False) -> Iterator[None]:
  """Ends the process with one line if MaxText fails in the with block. The package's own errors pass through.

  Args:
    has_traceback: let MaxText's errors pass through too.
  """
  try:
    yield
  except KeyboardInterrupt:
    print("maxtext-sparse: error: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    sys.exit(_INTERRUPTED_STATUS)
  except (ConfigError, HookError, RunError):
    raise
  except Exception as error:
    if has_traceback:
      raise
    print(f"maxtext-sparse: error: {describe(error)}; --traceback shows where", file=sys.stderr)
    sys.exit(1)


def describe(error: BaseException) -> str:
  """An error of MaxText, or of what it calls, as one line with a hint."""
  text = " ".join(_reason(error).split())
  text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
  hint = next((hint for pattern, hint in _HINTS if re.search(pattern, f"{type(error).__name__}: {error}")), "")
  return f"MaxText: {text}" + (f"; {hint}" if hint else "")


def _reason(error: BaseException) -> str:
  """What went wrong, without the name of the class where the message says enough."""
  details = getattr(error, "errors", None)
  if callable(details) and type(error).__module__.startswith("pydantic"):
    first = details()[0]
    key = ".".join(map(str, first["loc"]))
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{key}={first['input']}: {reason}" if key else reason
  return str(error) or type(error).__name__
