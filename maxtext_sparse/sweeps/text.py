"""What the sweep commands print for people."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.state import Progress
from maxtext_sparse.terminal import new_table, say, short


def print_made(made: Manifest, console: Console) -> None:
  """Every run with its length and where it branches, then what the trunks save."""
  table = new_table(["run", "steps", "from", "own steps", "tokens a step", "prunable"], left=["from"])
  for run in made.runs:
    source = "" if run.trunk is None else f"{run.trunk} @ {run.branch_step}"
    counts = f"{run.batch_tokens:,}", short(run.num_prunable)
    table.add_row(run.name, f"{run.steps:,}", source, f"{run.num_own_steps:,}", *counts)
  console.print(table)
  total = f"{made.num_runs} runs, {made.steps_alone:,} steps"
  if made.num_trunks:
    plural = "" if made.num_trunks == 1 else "s"
    total += f"; with {made.num_trunks} trunk{plural} {made.steps:,}, saving {made.saved:.1%}"
  say(console, total)
  say(console, f"folder: {made.directory}")


def print_states(rows: Sequence[tuple[Run, Progress]], console: Console) -> None:
  """Where every run stands, then how many stand where."""
  table = new_table(["run", "state", "step", "loss", "density", "note"], left=["state", "note"])
  for run, progress in rows:
    loss = "" if progress.loss is None else f"{progress.loss:.3f}"
    density = "" if progress.density is None else f"{progress.density:.3f}"
    table.add_row(run.name, progress.state, f"{progress.num_done}/{run.steps}", loss, density, Text(progress.reason))
  console.print(table)
  states = Counter(progress.state for _, progress in rows)
  say(console, ", ".join(f"{number} {state}" for state, number in states.items()))
