"""What `plan` and `params` print for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from maxtext_sparse.plan.chart import draw
from maxtext_sparse.plan.cost import Phase, RunPlan
from maxtext_sparse.plan.twins import Twin
from maxtext_sparse.terminal import new_table, print_table, say, short

if TYPE_CHECKING:
  from maxtext_sparse.plan.models import Model
  from maxtext_sparse.plan.prices import PricedRun


def print_plan(plan: RunPlan, console: Console, notes: Sequence[str] = ()) -> None:
  """Prints the schedule, its phases, a plot of N(t), and what the run costs."""
  say(console, _headline(plan))
  print_table(console, _phase_table(plan))
  for line in draw(plan, is_ascii=console.options.ascii_only):
    say(console, line)
  say(console, "")
  for name, value in _figures(plan):
    say(console, f"{name:<22}{value}")
  for note in notes:
    say(console, f"note: {note}")


def print_price(priced: "PricedRun", console: Console) -> None:
  """Prints hours, chip-hours and dollars of each phase and of the run."""
  table = new_table(["phase", "hours", "chip-hours", "dollars"])
  for name, cost in (*priced.phases.items(), ("run", priced.cost)):
    dollars = "-" if cost.dollars is None else f"{cost.dollars:,.2f}"
    table.add_row(name, f"{cost.hours:,.2f}", f"{cost.chip_hours:,.1f}", dollars)
  pace = priced.pace
  say(console, f"{priced.topology}, {pace.num_chips} chips, at MFU {priced.utilisation:.0%}")
  print_table(console, table)
  added = f"mask {1e6 * pace.mask:,.0f} us, event {1e3 * pace.event:.2f} ms"
  speed = f"{pace.tokens_per_second_per_chip(pace.dense):,.0f} tokens a second a chip"
  say(console, f"step {1e3 * pace.dense:,.1f} ms, {added}; {speed}")


def print_twins(twins: Sequence[Twin], num_prunable: int, console: Console) -> None:
  """Prints the dense neighbours of each sparsity, then the overrides that make them."""
  table = new_table(["S", "average", "of dense", "hidden size", "prunable", "weight"])
  for twin in twins:
    for i, neighbour in enumerate(twin.neighbours):
      head = (f"{twin.sparsity:.0%}", short(twin.average_params), f"{twin.average_params / num_prunable:.3f}")
      row = (str(neighbour.emb_dim), f"{neighbour.num_prunable:,}", f"{neighbour.weight:.3f}")
      table.add_row(*(head if i == 0 else ("", "", "")), *row)
  say(console, f"dense twins of a model with {num_prunable:,} prunable weights")
  print_table(console, table)
  say(console, "loss of the twin = sum of weight x loss")
  say(console, "to train a neighbour, add to the command of the sparse run:")
  sizes = {neighbour.emb_dim: neighbour.overrides for twin in twins for neighbour in twin.neighbours}
  for emb_dim in sorted(sizes):
    say(console, f"  {emb_dim:>5}  {' '.join(sizes[emb_dim])}")


def print_model(model: "Model", console: Console) -> None:
  """Prints every array with its size and whether it is pruned, and the totals.

  The shape of a pruned matrix has an arrow from its input to its output features; groups of n:m lie along the last axis
  before the arrow.
  """
  pruned = {parameter.path for parameter in model.prunable}
  table = new_table(["parameter", "shape of a matrix", "matrices", "weights", "pruned"])
  for parameter in model.parameters:
    is_pruned = parameter.path in pruned
    features = [parameter.contraction_axes, parameter.output_axes] if is_pruned else [parameter.matrix_axes]
    shape = " -> ".join(" x ".join(str(parameter.shape[axis]) for axis in axes) for axes in features)
    count = parameter.size // parameter.matrix_size
    table.add_row(parameter.path, shape, str(count), f"{parameter.size:,}", "yes" if is_pruned else "")
  print_table(console, table)
  share = model.num_prunable / model.total
  say(console, f"total     {model.total:>18,}  {short(model.total)}")
  say(console, f"prunable  {model.num_prunable:>18,}  {short(model.num_prunable)}, {share:.1%} of the total")


def _headline(plan: RunPlan) -> str:
  schedule = plan.schedule
  sparsity = f"S = {1 - schedule.final_density:.4g}, {schedule.shape}"
  if len(schedule.event_steps) == 1:
    return f"{sparsity}: one event at step {schedule.start} of {plan.steps}"
  period = plan.keys.gmp_pruning_frequency
  steps = "every step" if period == 1 else f"every {period} steps"
  events = f"{len(schedule.event_steps)} events, {steps} from {schedule.start} to {schedule.end}"
  return f"{sparsity}: {events} of {plan.steps}"


def _phase_table(plan: RunPlan) -> Table:
  table = new_table(["phase", "steps", "number", "tokens", "of steps", "of compute", "active weights"])
  for phase in plan.phases():
    tokens = short(plan.tokens_per_step * phase.num_steps) if plan.tokens_per_step else "-"
    steps = f"{phase.begin}..{phase.stop - 1}" if phase.num_steps else "-"
    shares = f"{phase.num_steps / plan.steps:.1%}", f"{phase.compute_share:.1%}"
    table.add_row(phase.name, steps, str(phase.num_steps), tokens, *shares, _ends(plan, phase))
  return table


def _ends(plan: RunPlan, phase: Phase) -> str:
  """Active weights at both ends of a phase, or densities where the model is not known."""
  size = plan.num_prunable
  ends = [short(size * d) if size else f"{d:.3g}" for d in (phase.begin_density, phase.end_density)]
  return " -> ".join(dict.fromkeys(ends))


def _figures(plan: RunPlan) -> list[tuple[str, str]]:
  average = f"{plan.average_density:.4f}"
  if plan.average_params is not None:
    average += f" of {short(plan.num_prunable or 0)} prunable weights: {short(plan.average_params)}"
  final = plan.schedule.final_density
  figures = [
    ("average density", average),
    ("final density", f"{final:.4f}" + (f": {short(final * plan.num_prunable)}" if plan.num_prunable else "")),
    ("compression rate", f"{plan.compression_rate:.2f}x, average over final"),
  ]
  if plan.tokens is not None:
    figures.append(("tokens", f"{short(plan.tokens)} ({short(plan.tokens_per_step or 0)} a step)"))
  overhead = f"{plan.overhead:.2f}x the effective ones, {1 / final:.2f}x in recovery,"
  if plan.effective_flops is not None and plan.actual_flops is not None:
    figures.append(("effective FLOPs", short(plan.effective_flops)))
    overhead = f"{short(plan.actual_flops)}, {overhead}"
  return [*figures, ("actual FLOPs", overhead), ("", "because the hardware multiplies the zeros too")]
