"""The tables that the sweep commands print."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.price import StudyCost
from maxtext_sparse.sweeps.state import RunStatus
from maxtext_sparse.terminal import new_table, print_table, say, short


def print_made(made: Manifest, console: Console) -> None:
  """Prints every run with its length and its trunk, then the number of steps that the trunks save."""
  table = new_table(["run", "steps", "from", "own steps", "tokens a step", "prunable"], left=["from"])
  for run in made.runs:
    source = "" if run.trunk is None else f"{run.trunk} @ {run.branch_step}"
    counts = f"{run.batch_tokens:,}", short(run.num_prunable)
    table.add_row(run.name, f"{run.steps:,}", source, f"{run.num_own_steps:,}", *counts)
  print_table(console, table)
  total = f"{made.num_runs} runs, {made.steps_alone:,} steps"
  if made.num_trunks:
    plural = "" if made.num_trunks == 1 else "s"
    total += f"; with {made.num_trunks} trunk{plural} {made.steps:,}, saving {made.saved:.1%}"
  say(console, total)
  say(console, f"folder: {made.directory}")


def print_study_cost(cost: StudyCost, console: Console) -> None:
  """Prints what a study takes, with and without its trunks."""
  say(console, f"on {cost.topology} at MFU {cost.utilisation:.0%}, one run after the other:")
  for name, part in (("each run alone", cost.alone), ("with trunks", cost.with_trunks)):
    flops = f"{short(part.actual_flops)} FLOPs, {part.actual_flops / part.effective_flops:.2f}x the effective ones"
    say(console, f"  {name:<14}  {part.cost.describe()}; {flops}")


def print_states(rows: Sequence[tuple[Run, RunStatus]], console: Console) -> None:
  """Prints where every run stands, then the number of runs in each state."""
  table = new_table(["run", "state", "step", "loss", "density", "note"], left=["state", "note"])
  for run, status in rows:
    loss = "" if status.loss is None else f"{status.loss:.3f}"
    density = "" if status.density is None else f"{status.density:.3f}"
    table.add_row(run.name, status.state, f"{status.num_done}/{run.steps}", loss, density, Text(status.reason))
  print_table(console, table)
  states = Counter(status.state for _, status in rows)
  say(console, ", ".join(f"{number} {state}" for state, number in states.items()))
