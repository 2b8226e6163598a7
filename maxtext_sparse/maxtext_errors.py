"""MaxText's own errors in one line: its reason first, then the hint that helps, then how to see the rest."""

from collections.abc import Iterator
import contextlib
import contextvars
import re
import sys
from typing import Any

from maxtext_sparse.errors import ConfigError, did_you_mean, HookError, print_error, RunError
from maxtext_sparse.runs.listing import quiet_client

_LONGEST = 400
_INTERRUPTED_STATUS = 130
# What a config that cannot work makes MaxText and jax raise. jax's own errors are TypeErrors and ValueErrors.
_CONFIG_ERRORS = (ValueError, TypeError, AssertionError, KeyError, ArithmeticError, OSError)
# Packages that a config passes through, and whose errors have classes of their own.
_CONFIG_PACKAGES = ("omegaconf", "yaml")
# What MaxText or jax says -> what helps.
_HINTS = (
  (
    r"coordinator_address|[Uu]nable to initialize backend|TPU initialization|No visible TPU|[Cc]loud TPU|"
    r"distributed\.initialize|metadata\.google",
    "on a machine without an accelerator add hardware=cpu skip_jax_distributed_system=True",
  ),
  (
    r"DefaultCredentialsError|default credentials",
    "log in to Google Cloud, or give a local folder and enable_goodput_recording=false",
  ),
  (r"num_kv_heads for GQA", "base_num_query_heads must be a multiple of base_num_kv_heads"),
  (r"must have every element be nonnegative", "every size, such as base_emb_dim, must be at least 1"),
  (r"RESOURCE_EXHAUSTED|[Oo]ut of memory", "lower per_device_batch_size, or use more devices"),
  (
    r"^(HttpError|ServerDisconnectedError|ClientConnectorError|ClientOSError): ",  # of gcsfs and its client for HTTP
    "the bucket does not answer; start the run again later, it goes on from its last checkpoint",
  ),
  (r"[Nn]o space left", "free some room on that disk; the run goes on from its last checkpoint"),
)


# Whether an error in this context ends as one line, so that MaxText's banner would only be in the way.
_is_one_line = contextvars.ContextVar("maxtext_sparse_one_line", default=False)


@contextlib.contextmanager
def in_one_line(has_traceback: bool = False) -> Iterator[None]:
  """Ends the process with one line if MaxText fails in the with block. The package's own errors pass through.

  Args:
    has_traceback: let MaxText's errors pass through too.
  """
  token = _is_one_line.set(not has_traceback)
  try:
    with contextlib.nullcontext() if has_traceback else quiet_client():
      yield
  except KeyboardInterrupt:
    print_error("interrupted; the same command goes on from the last checkpoint")
    sys.exit(_INTERRUPTED_STATUS)
  except (ConfigError, HookError, RunError):
    raise
  except Exception as error:
    if has_traceback:
      raise
    print_error(f"{describe(error)}; --traceback shows where")
    sys.exit(1)
  finally:
    _is_one_line.reset(token)


def is_one_line() -> bool:
  """Whether this runs in an `in_one_line` that shows no traceback."""
  return _is_one_line.get()


@contextlib.contextmanager
def as_config_errors() -> Iterator[None]:
  """Turns what MaxText raises in the with block, because of its config, into ConfigError."""
  try:
    yield
  except (ConfigError, HookError):
    raise
  except Exception as error:
    if not isinstance(error, _CONFIG_ERRORS) and type(error).__module__.partition(".")[0] not in _CONFIG_PACKAGES:
      raise
    raise ConfigError(_with_hint(error)) from error


def describe(error: BaseException) -> str:
  """An error of MaxText, or of what it calls, as one line with a hint."""
  return f"MaxText: {_with_hint(error)}"


def _with_hint(error: BaseException) -> str:
  text = " ".join(_reason(error).split())
  text = text.rstrip(".") if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
  hint = next((hint for pattern, hint in _HINTS if re.search(pattern, f"{type(error).__name__}: {error}")), "")
  return text + (f"; {hint}" if hint else "")


def _reason(error: BaseException) -> str:
  """What went wrong, without the name of the class where the message says enough."""
  details = getattr(error, "errors", None)
  if callable(details) and type(error).__module__.startswith("pydantic"):
    return _pydantic_reason(details()[0])
  if isinstance(error, OSError) and error.filename:
    return f"{error.filename}: {error.strerror}"
  # MaxText lists all its keys after the unknown one.
  unknown = re.match(r"'(\w+)' not in (.*)", str(error), re.DOTALL)
  if unknown:
    return f"{unknown[1]}: MaxText has no such key{did_you_mean(unknown[1], re.findall(r"'(\w+)'", unknown[2]))}"
  return str(error) or type(error).__name__


def _pydantic_reason(error: Any) -> str:
  """One error of a field. For a value that is not among the allowed ones, it names the nearest."""
  reason = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
  if not error["loc"]:
    return str(reason)
  key, value = ".".join(map(str, error["loc"])), error["input"]
  choices = re.findall(r"'([^']*)'", error.get("ctx", {}).get("expected", ""))
  if choices and isinstance(value, str):
    reason = f"unknown{did_you_mean(value, choices, cutoff=0.4) or ', must be one of ' + ', '.join(choices)}"
  return f"{key}={value}: {reason}"
