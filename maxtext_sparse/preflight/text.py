"""The comparison of train steps as JSON and as tables."""

import dataclasses
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from maxtext_sparse.preflight.compare import Comparison, READS_PER_EVENT, Step

# What "no cost" means here, against the dense step.
_MAX_ARGUMENT_BYTES = 1024
_MAX_TEMP_SHARE = 0.01
_MAX_FLOPS_SHARE = 0.005
_MAX_COLLECTIVE_BYTES = 64 * 1024

_ROWS = ("argument_bytes", "temp_bytes", "output_bytes", "flops", "bytes_accessed")


def as_json(comparison: Comparison) -> dict[str, Any]:
  """Everything that the compiler told; the collectives by kind, those that sparsity added by name."""
  return {
    "topology": comparison.topology,
    "sparsity": comparison.sparsity,
    "gmp_pruning_frequency": comparison.frequency,
    "hbm_bytes": comparison.hbm_bytes,
    "fits": comparison.fits,
    "dense": _step_json(comparison.dense),
    "between_events": _step_json(comparison.between_events),
    "sparse": _step_json(comparison.sparse),
    "added_collectives": [dataclasses.asdict(collective) for collective in comparison.added_collectives()],
    "event_bytes": comparison.event_bytes(),
    "amortised_bytes": comparison.amortised_bytes(),
    "bars": bars(comparison) if comparison.fits else {},
  }


def bars(comparison: Comparison) -> dict[str, bool]:
  """Which of the bounds on the cost of sparsity hold."""
  dense, sparse = comparison.dense, comparison.sparse
  largest = max((collective.num_bytes for collective in comparison.added_collectives()), default=0)
  return {
    "argument bytes within 1 kB": abs(sparse.argument_bytes - dense.argument_bytes) <= _MAX_ARGUMENT_BYTES,
    "temp bytes at most +1 %": sparse.temp_bytes <= dense.temp_bytes * (1 + _MAX_TEMP_SHARE),
    "FLOPs at most +0.5 %": sparse.flops <= dense.flops * (1 + _MAX_FLOPS_SHARE),
    "no added collective over 64 kB": largest <= _MAX_COLLECTIVE_BYTES,
  }


def print_comparison(comparison: Comparison, console: Console) -> None:
  """Tables of the steps and of their collectives, and what sparsity costs."""
  console.print(f"{comparison.topology}, sparsity {comparison.sparsity:g}, each device")
  if not comparison.fits:
    console.print(f"does not fit: {comparison.sparse.out_of_memory}")
    console.print(f"dense: {comparison.dense.out_of_memory or 'fits'}")
    return
  console.print(_cost_table(comparison))
  console.print(_collective_table(comparison))
  for line in _summary(comparison):
    console.print(line)


def _step_json(step: Step) -> dict[str, Any]:
  content = {field.name: getattr(step, field.name) for field in dataclasses.fields(Step)}
  return content | {"total_bytes": step.total_bytes, "collectives": step.collective_totals()}


def _cost_table(comparison: Comparison) -> Table:
  table = _table("", "dense", "between events", "sparse", "sparse / dense")
  for row in _ROWS:
    dense, between, sparse = (getattr(step, row) for step in _steps(comparison))
    table.add_row(row.replace("_", " "), f"{dense:,.0f}", f"{between:,.0f}", f"{sparse:,.0f}", _change(sparse, dense))
  return table


def _collective_table(comparison: Comparison) -> Table:
  table = _table("collectives", "dense", "bytes", "sparse", "bytes")
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
  share = lambda extra: f"{extra / dense.bytes_accessed:+.2%}"
  lines.append(
    f"event step: {share(comparison.event_bytes())} bytes accessed with {READS_PER_EVENT} reads of the weights, "
    f"over P = {comparison.frequency} steps {share(comparison.amortised_bytes())}"
  )
  if comparison.hbm_bytes:
    lines.append(f"memory: {sparse.total_bytes / 2**30:.2f} of {comparison.hbm_bytes / 2**30:.0f} GiB, fits")
  return lines + [f"{'met' if is_met else 'NOT MET'}: {name}" for name, is_met in bars(comparison).items()]


def _steps(comparison: Comparison) -> tuple[Step, Step, Step]:
  return comparison.dense, comparison.between_events, comparison.sparse


def _change(new: float, old: float) -> str:
  return "equal" if new == old else f"{new / old - 1:+.3%}"


def _table(first: str, *columns: str) -> Table:
  table = Table(first, box=box.SIMPLE_HEAD, pad_edge=False)
  for column in columns:
    table.add_column(column, justify="right", no_wrap=True)
  return table
