"""What the commands share: where they print, and on which platform they look at shapes."""

from collections.abc import Mapping
import json
import os
import sys
from typing import Any


def print_json(content: Mapping[str, Any]) -> None:
  """One JSON object on stdout."""
  json.dump(content, sys.stdout)
  print()


def console(width: int = 120) -> Any:
  """A rich console; into a pipe or a file tables keep their full width."""
  from rich.console import Console

  return Console(highlight=False, width=None if sys.stdout.isatty() else width)


def avoid_accelerators() -> None:
  """Before jax is imported: shapes need no TPU, which may be busy or missing."""
  os.environ["JAX_PLATFORMS"] = "cpu"
