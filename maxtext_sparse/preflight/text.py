"""The comparison of train steps as JSON and as tables."""

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from maxtext_sparse.hooks import maxtext_version
from maxtext_sparse.preflight.compare import Comparison, Step
from maxtext_sparse.preflight.pace import Pace, RunCost
from maxtext_sparse.terminal import new_table, print_table, say, short

# The most that sparsity may cost beyond the dense step to count as free.
_MAX_ARGUMENT_BYTES = 1024
_MAX_TEMP_SHARE = 0.01
_MAX_FLOPS_SHARE = 0.005
_MAX_COLLECTIVE_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Options:
  """What the user knows of the run.

  Attributes:
    utilisation: a measured MFU; None for times at peak rates.
    price: dollars of a chip-hour; None if no price is wanted.
  """

  utilisation: float | None = None
  price: float | None = None


def to_dict(comparison: Comparison, options: Options) -> dict[str, Any]:
  """Everything for JSON: collectives by kind, and the added ones one by one."""
  content = {
    "maxtext": maxtext_version(),
    "topology": comparison.topology,
    "num_chips": comparison.where.num_chips,
    "sparsity": comparison.sparsity,
    "gmp_pruning_frequency": comparison.run.frequency,
    "hbm_bytes": comparison.where.device.hbm_bytes,
    "fits": comparison.fits,
    "dense": _step_dict(comparison.dense),
    "sparse": _step_dict(comparison.sparse),
    "added_collectives": [dataclasses.asdict(collective) for collective in comparison.added_collectives()],
    "bars": bars(comparison) if comparison.fits else {},
  }
  if not comparison.fits or comparison.dense.out_of_memory:
    return content
  pace = comparison.pace(options.utilisation)
  return content | {
    "model_flops": comparison.run.model_flops,
    "expected_flops": comparison.run.expected_flops,
    "peak_seconds": {"dense": comparison.dense_time.to_dict(), "event": comparison.event_time.to_dict()},
    "highest_utilisation": comparison.utilisation(),
    "pace": dataclasses.asdict(pace) | {"overhead": pace.overhead(comparison.run.frequency)},
    "run": dataclasses.asdict(comparison.run) | _cost(comparison, pace, options).to_dict(),
  }


def bars(comparison: Comparison) -> dict[str, bool]:
  """Tells for each bound on the cost of sparsity whether it holds."""
  dense, sparse = comparison.dense, comparison.sparse
  largest = max((collective.num_bytes for collective in comparison.added_collectives()), default=0)
  argument_bytes = sparse.memory.argument_bytes - dense.memory.argument_bytes
  return {
    "argument bytes within 1 kB": abs(argument_bytes) <= _MAX_ARGUMENT_BYTES,
    "temp bytes at most +1 %": sparse.memory.temp_bytes <= dense.memory.temp_bytes * (1 + _MAX_TEMP_SHARE),
    "FLOPs at most +0.5 %": sparse.flops <= dense.flops * (1 + _MAX_FLOPS_SHARE),
    "no added collective over 64 kB": largest <= _MAX_COLLECTIVE_BYTES,
  }


def print_comparison(comparison: Comparison, options: Options, console: Console) -> None:
  """Prints what a step needs, does and takes, dense and sparse, and then what the run costs."""
  where = f"{comparison.topology}, {comparison.where.num_chips} chips"
  say(console, f"{where}, sparsity {comparison.sparsity:g}, figures of each device")
  if not comparison.fits:
    say(console, f"does not fit: {comparison.sparse.out_of_memory}")
    say(console, f"dense: {comparison.dense.out_of_memory or 'fits'}")
    return
  print_table(console, _work_table(comparison))
  print_table(console, _collective_table(comparison))
  print_table(console, _time_table(comparison))
  for line in _summary(comparison, options):
    say(console, line)


def _step_dict(step: Step) -> dict[str, Any]:
  if step.out_of_memory:
    return {"out_of_memory": step.out_of_memory}
  figures = ("flops", "accessed_bytes", "hbm_bytes", "mask_bytes", "event_bytes", "event_hbm_bytes")
  return {
    **dataclasses.asdict(step.memory),
    "total_bytes": step.memory.total_bytes,
    **{name: getattr(step, name) for name in figures},
    "collectives": step.collective_totals(),
    "unknown_loops": step.work.unknown_loops,
  }


def _work_table(comparison: Comparison) -> Table:
  table = new_table(["", "dense", "sparse", "sparse / dense", "event"])
  dense, sparse = comparison.dense, comparison.sparse
  for name in ("argument_bytes", "temp_bytes", "output_bytes"):
    before, after = getattr(dense.memory, name), getattr(sparse.memory, name)
    table.add_row(name.replace("_", " "), f"{before:,}", f"{after:,}", _change(after, before), "")
  flops = f"{dense.flops:,.0f}", f"{sparse.flops:,.0f}", _change(sparse.flops, dense.flops)
  table.add_row("FLOPs of products", *flops, "")
  # Without a ratio: two programs also differ in how operations are fused that have nothing to do with sparsity.
  table.add_row(
    "bytes accessed", f"{dense.accessed_bytes:,}", f"{sparse.accessed_bytes:,}", "", f"{sparse.event_bytes:,}"
  )
  table.add_row(
    "bytes from and to HBM", f"{dense.hbm_bytes:,}", f"{sparse.hbm_bytes:,}", "", f"{sparse.event_hbm_bytes:,}"
  )
  return table


def _collective_table(comparison: Comparison) -> Table:
  table = new_table(["collectives of a step", "dense", "bytes", "sparse", "bytes"])
  dense, sparse = comparison.dense.collective_totals(), comparison.sparse.collective_totals()
  nothing = {"count": 0, "bytes": 0}
  for kind in sorted(dense | sparse):
    before, after = dense.get(kind, nothing), sparse.get(kind, nothing)
    table.add_row(kind, str(before["count"]), f"{before['bytes']:,}", str(after["count"]), f"{after['bytes']:,}")
  return table


def _time_table(comparison: Comparison) -> Table:
  columns = ["milliseconds at peak rates", "estimate", "compute", "memory", "network", "at best", "at worst"]
  table = new_table(columns)
  for name, time in (("dense step", comparison.dense_time), ("event, beyond it", comparison.event_time)):
    values = (time.seconds, time.compute, time.memory, time.network, time.best, time.worst)
    table.add_row(name, *(f"{1e3 * value:.3f}" for value in values))
  return table


def _summary(comparison: Comparison, options: Options) -> list[str]:
  pace, run = comparison.pace(options.utilisation), comparison.run
  lines = [
    f"added: {collective.kind} of {collective.num_bytes:,} bytes, {collective.op_name}"
    for collective in comparison.added_collectives()
  ]
  if comparison.sparse.work.unknown_loops:
    lines.append(f"counted once, trips not known: {', '.join(comparison.sparse.work.unknown_loops)}")
  used, size = comparison.sparse.memory.total_bytes, comparison.where.device.hbm_bytes
  lines.append(f"memory       {used / 2**30:.2f} of {size / 2**30:.0f} GiB, fits")
  lines.append(f"FLOPs        {_flops(comparison)}")
  lines.append(f"step         {_step_line(comparison, pace, options)}")
  added = f"gradient mask {1e6 * pace.mask:,.0f} us a step, event {1e3 * pace.event:.2f} ms"
  lines.append(f"sparsity     {added}: {pace.overhead(run.frequency):+.3%} averaged over P = {run.frequency} steps")
  events = f"{run.steps:,} steps, {run.num_events:,} events"
  lines.append(f"run          {events}: {_cost(comparison, pace, options).describe()}")
  return lines + [f"{'met' if is_met else 'NOT MET'}: {name}" for name, is_met in bars(comparison).items()]


def _flops(comparison: Comparison) -> str:
  counted, run = comparison.dense.flops, comparison.run
  text = f"{short(counted)} counted, {counted / run.model_flops:.3f} of the model FLOPs"
  if run.expected_flops:
    text += f", {counted / run.expected_flops:.3f} of those with recomputation"
  return text


def _step_line(comparison: Comparison, pace: Pace, options: Options) -> str:
  speed = f"{pace.tokens_per_second_per_chip(pace.dense):,.0f} tokens a second a chip"
  if options.utilisation is None:
    return f"{1e3 * pace.dense:.1f} ms at least, {speed} and MFU {comparison.utilisation():.1%} at most"
  ratio = options.utilisation / comparison.utilisation()
  return f"{1e3 * pace.dense:.1f} ms at MFU {options.utilisation:.1%}, {ratio:.2f} of peak rates; {speed}"


def _cost(comparison: Comparison, pace: Pace, options: Options) -> RunCost:
  return pace.cost(comparison.run.steps, comparison.run.num_events, options.price)


def _change(new: float, old: float) -> str:
  return "equal" if new == old else f"{new / old - 1:+.3%}"
