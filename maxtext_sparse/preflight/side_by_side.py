"""Two preflights side by side: of two configs, or of one config under two releases of MaxText.

Each side is a `preflight --json` in a process of its own. A side with another Python environment runs that environment's
MaxText, TPU compiler and `maxtext_sparse`, so the comparison says what an upgrade would change.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from typing import Any

from rich.console import Console

from maxtext_sparse.arguments import split_words
from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.local.process import last_meaningful_line
from maxtext_sparse.terminal import new_table, print_table, say

# Name of each figure, and where the JSON of `preflight` has it.
FIGURES: dict[str, tuple[str, ...]] = {
  **{
    f"{name.replace('_', ' ')}, {step}": (step, name)
    for name in ("argument_bytes", "temp_bytes", "flops", "accessed_bytes", "hbm_bytes")
    for step in ("dense", "sparse")
  },
  "event bytes": ("sparse", "event_bytes"),
  "collective bytes of a dense step": ("dense", "collectives"),
  "dense step, ms": ("pace", "dense"),
  "gradient mask, ms": ("pace", "mask"),
  "event, ms": ("pace", "event"),
  "share of sparsity": ("pace", "overhead"),
  "hours of the run": ("run", "hours"),
  "chip-hours": ("run", "chip_hours"),
  "dollars": ("run", "dollars"),
}


@dataclasses.dataclass(frozen=True)
class Side:
  """One of two preflights.

  Attributes:
    name: as the user gave it.
    python: the interpreter that runs it.
    arguments: `CONFIG ... key=value ...` of this side alone.
  """

  name: str
  python: str
  arguments: tuple[str, ...] = ()

  @classmethod
  def parse(cls, text: str) -> "Side":
    """Reads a folder with a Python environment, or arguments in one text, such as "1b.yml sparsity=0.5"."""
    if not os.path.isdir(text):
      return cls(text, sys.executable, tuple(shlex.split(text)))
    python = os.path.join(text, "bin", "python")
    if not os.path.exists(python):
      raise ConfigError(f"--compare {text}: has no bin/python, give a Python environment, a config file or key=value")
    return cls(text, python)

  def command(self, arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """The preflight of this side; its own keys replace those of `arguments`, and its files are merged after them."""
    own_files, own_keys = split_words(self.arguments)
    files, keys = split_words(arguments)
    replaced = {key.partition("=")[0] for key in own_keys}
    kept = [key for key in keys if key.partition("=")[0] not in replaced]
    words = [*files, *own_files, *kept, *own_keys]
    return [self.python, "-m", "maxtext_sparse", "preflight", *words, *options, "--json"]


def run_side(side: Side, arguments: Sequence[str], options: Sequence[str], tell: Callable[[str], None]) -> dict[str, Any]:
  """What `preflight --json` says of a side.

  Args:
    side: which.
    arguments: `CONFIG ... key=value ...` of both sides.
    options: of `preflight`, such as --topology.
    tell: is called with a line when the side is done.

  Raises:
    ConfigError: the side's config is refused.
    RunError: its preflight failed otherwise.
  """
  started = time.monotonic()
  # A step that does not fit into memory ends with status 1 and with its JSON.
  done = subprocess.run(side.command(arguments, options), stdin=subprocess.DEVNULL, capture_output=True, text=True)
  if not done.stdout:
    error = ConfigError if done.returncode == ConfigError.exit_status else RunError
    raise error(f"--compare {side.name}: {last_meaningful_line(done.stderr)}")
  tell(f"{side.name}: done in {time.monotonic() - started:.0f} s")
  found: dict[str, Any] = json.loads(done.stdout)
  return found


def figure(told: dict[str, Any], name: str) -> float | None:
  """One of FIGURES; None where a side does not say it."""
  value: Any = told
  for key in FIGURES[name]:
    value = value.get(key) if isinstance(value, dict) else None
  if isinstance(value, dict):  # collectives by kind
    value = sum(kind["bytes"] for kind in value.values())
  if value is None:
    return None
  return 1e3 * float(value) if name.endswith(", ms") else float(value)


def ratios(first: dict[str, Any], second: dict[str, Any]) -> dict[str, float | None]:
  """Each figure of the second side over that of the first; None where one is missing or the first is 0."""
  pairs = {name: (figure(first, name), figure(second, name)) for name in FIGURES}
  return {name: after / before if before and after is not None else None for name, (before, after) in pairs.items()}


def print_both(sides: Sequence[Side], told: Sequence[dict[str, Any]], console: Console) -> None:
  """Prints both sides and their ratios."""
  for letter, side, content in zip("AB", sides, told):
    fits = "" if content["fits"] else ", does not fit into memory"
    say(console, f"{letter}: {side.name}, MaxText {content.get('maxtext', '-')}, {content['topology']}{fits}")
  table = new_table(["of each device", "A", "B", "B / A"])
  for name, ratio in ratios(*told).items():
    values = [figure(content, name) for content in told]
    if any(value is not None for value in values):
      table.add_row(name, *(_shown(value) for value in values), "-" if ratio is None else f"{ratio:.4f}")
  print_table(console, table)


def _shown(value: float | None) -> str:
  if value is None:
    return "-"
  return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
