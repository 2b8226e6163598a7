"""The comparison of train steps as JSON and as tables."""

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from maxtext_sparse.preflight.compare import Comparison, READS_PER_EVENT, Step
from maxtext_sparse.terminal import new_table, say

# The most that sparsity may cost beyond the dense step to count as free.
_MAX_ARGUMENT_BYTES = 1024
_MAX_TEMP_SHARE = 0.01
_MAX_FLOPS_SHARE = 0.005
_MAX_COLLECTIVE_BYTES = 64 * 1024

_ROWS = ("argument_bytes", "temp_bytes", "output_bytes", "flops", "bytes_accessed")


def to_dict(comparison: Comparison) -> dict[str, Any]:
  """Everything that the compiler reported, for JSON: collectives by kind, and the added ones one by one."""
  return {
    "topology": comparison.topology,
    "sparsity": comparison.sparsity,
    "gmp_pruning_frequency": comparison.frequency,
    "hbm_bytes": comparison.hbm_bytes,
    "fits": comparison.fits,
    "dense": _step_dict(comparison.dense),
    "between_events": _step_dict(comparison.between_events),
    "sparse": _step_dict(comparison.sparse),
    "added_collectives": [dataclasses.asdict(collective) for collective in comparison.added_collectives()],
    "event_bytes": comparison.event_bytes(),
    "amortised_bytes": comparison.amortised_bytes(),
    "bars": bars(comparison) if comparison.fits else {},
  }


def bars(comparison: Comparison) -> dict[str, bool]:
  """Tells for each bound on the cost of sparsity whether it holds."""
  dense, sparse = comparison.dense, comparison.sparse
  largest = max((collective.num_bytes for collective in comparison.added_collectives()), default=0)
  return {
    "argument bytes within 1 kB": abs(sparse.argument_bytes - dense.argument_bytes) <= _MAX_ARGUMENT_BYTES,
    "temp bytes at most +1 %": sparse.temp_bytes <= dense.temp_bytes * (1 + _MAX_TEMP_SHARE),
    "FLOPs at most +0.5 %": sparse.flops <= dense.flops * (1 + _MAX_FLOPS_SHARE),
    "no added collective over 64 kB": largest <= _MAX_COLLECTIVE_BYTES,
  }


def print_comparison(comparison: Comparison, console: Console) -> None:
  """Prints tables of the steps and of their collectives, and then what sparsity costs."""
  say(console, f"{comparison.topology}, sparsity {comparison.sparsity:g}, each device")
  if not comparison.fits:
    say(console, f"does not fit: {comparison.sparse.out_of_memory}")
    say(console, f"dense: {comparison.dense.out_of_memory or 'fits'}")
    return
  console.print(_cost_table(comparison))
  console.print(_collective_table(comparison))
  for line in _summary(comparison):
    say(console, line)


def _step_dict(step: Step) -> dict[str, Any]:
  content = {field.name: getattr(step, field.name) for field in dataclasses.fields(Step)}
  return content | {"total_bytes": step.total_bytes, "collectives": step.collective_totals()}


def _cost_table(comparison: Comparison) -> Table:
  table = new_table(["", "dense", "between events", "sparse", "sparse / dense"])
  for row in _ROWS:
    dense, between, sparse = (getattr(step, row) for step in _steps(comparison))
    table.add_row(row.replace("_", " "), f"{dense:,.0f}", f"{between:,.0f}", f"{sparse:,.0f}", _change(sparse, dense))
  return table


def _collective_table(comparison: Comparison) -> Table:
  table = new_table(["collectives", "dense", "bytes", "sparse", "bytes"])
  dense, sparse = comparison.dense.collective_totals(), comparison.sparse.collective_totals()
  nothing = {"count": 0, "bytes": 0}
  for kind in sorted(dense | sparse):
    before, after = dense.get(kind, nothing), sparse.get(kind, nothing)
    table.add_row(kind, str(before["count"]), f"{before['bytes']:,}", str(after["count"]), f"{after['bytes']:,}")
  return table


def _summary(comparison: Comparison) -> list[str]:
  dense, sparse = comparison.dense, comparison.sparse
  lines = [
    f"added: {collective.kind} of {collective.num_bytes:,} bytes, {collective.op_name}"
    for collective in comparison.added_collectives()
  ]
  at_event, on_average = (
    f"{extra / dense.bytes_accessed:+.2%}" for extra in (comparison.event_bytes(), comparison.amortised_bytes())
  )
  lines.append(
    f"bytes accessed: {at_event} at an event with {READS_PER_EVENT} reads of the weights, "
    f"{on_average} averaged over P = {comparison.frequency} steps"
  )
  if comparison.hbm_bytes:
    lines.append(f"memory: {sparse.total_bytes / 2**30:.2f} of {comparison.hbm_bytes / 2**30:.0f} GiB, fits")
  return lines + [f"{'met' if is_met else 'NOT MET'}: {name}" for name, is_met in bars(comparison).items()]


def _steps(comparison: Comparison) -> tuple[Step, Step, Step]:
  return comparison.dense, comparison.between_events, comparison.sparse


def _change(new: float, old: float) -> str:
  return "equal" if new == old else f"{new / old - 1:+.3%}"
