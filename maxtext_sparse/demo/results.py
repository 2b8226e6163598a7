"""The demo's results: the final figures of both runs, and the curves of its picture."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from maxtext_sparse.demo.training import RunSpec
from maxtext_sparse.runs.metrics import eval_rows, read_rows, Row, train_rows
from maxtext_sparse.runs.record import RunRecord
from maxtext_sparse.schedule import Schedule

# (steps, values), two lists of one length.
Curve = tuple[list[float], list[float]]


@dataclasses.dataclass(frozen=True)
class RunResult:
  """The final figures of one run.

  Parameters are those of the prunable matrices. Both runs have the same embeddings and norms besides.

  Attributes:
    eval_loss: mean cross-entropy on the held-out text after the last step, in nats per token.
    final_params: number of parameters at the end that are not zero.
    average_params: mean of this number over the steps.
    effective_flops: 6 x active parameters x tokens, summed over the steps.
    density: final_params divided by the number of all prunable parameters.
    thinnest_matrix: name of the matrix with the lowest density at the end, None if nothing was pruned.
    thinnest_density: its density.
    seconds: wall time of all attempts, with start-up and compilation.
  """

  eval_loss: float
  final_params: int
  average_params: float
  effective_flops: float
  density: float
  thinnest_matrix: str | None
  thinnest_density: float
  seconds: float

  def to_dict(self) -> dict[str, Any]:
    """All figures, for JSON."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class RunCurves:
  """The curves of one run over its steps.

  Attributes:
    train_loss: loss of each training batch, in nats per token.
    eval_loss: loss on the held-out text, in nats per token.
    params: number of prunable parameters that are not zero.
  """

  train_loss: Curve
  eval_loss: Curve
  params: Curve


def dense_result(rows: Sequence[Row], evals: Sequence[Row], num_prunable: int, seconds: float) -> RunResult:
  """The figures of the dense run. Its metrics do not hold the number of prunable weights, those of the sparse run do."""
  tokens = rows[-1]["perf/per_device_tokens"] * (rows[-1]["step"] + 1)
  flops = 6.0 * num_prunable * tokens
  return RunResult(evals[-1]["eval/avg_loss"], num_prunable, num_prunable, flops, 1.0, None, 1.0, seconds)


def sparse_result(rows: Sequence[Row], evals: Sequence[Row], densities: Mapping[str, float], seconds: float) -> RunResult:
  """The figures of the sparse run; `densities` are matrix -> density after the last event."""
  last = rows[-1]
  thinnest = min(densities, key=densities.__getitem__, default=None)
  return RunResult(
    evals[-1]["eval/avg_loss"],
    int(last["pruning/nonzero_prunable"]),
    last["pruning/average_params"],
    last["pruning/effective_flops"],
    last["pruning/density"],
    thinnest,
    last["pruning/min_matrix_density"],
    seconds,
  )


def read_results(
  dense: RunSpec, sparse: RunSpec, schedule: Schedule
) -> tuple[dict[str, RunResult], dict[str, RunCurves]]:
  """Figures and curves of two finished runs, by the names `dense` and `sparse`."""
  dense_rows, dense_evals = _rows(dense)
  sparse_rows, sparse_evals = _rows(sparse)
  num_prunable = int(sparse_rows[-1]["pruning/prunable"])
  event = RunRecord(sparse.directory).read_event(schedule.end) or {}
  results = {
    "dense": dense_result(dense_rows, dense_evals, num_prunable, dense.seconds),
    "sparse": sparse_result(sparse_rows, sparse_evals, event.get("matrices", {}), sparse.seconds),
  }
  curves = {
    "dense": _curves(dense_rows, dense_evals, num_prunable),
    "sparse": _curves(sparse_rows, sparse_evals, num_prunable),
  }
  return results, curves


def _rows(spec: RunSpec) -> tuple[list[Row], list[Row]]:
  rows = read_rows(spec.metrics_file)
  return train_rows(rows), eval_rows(rows)


def _curves(rows: Sequence[Row], evals: Sequence[Row], num_prunable: int) -> RunCurves:
  steps = [row["step"] for row in rows]
  return RunCurves(
    (steps, [row["learning/loss"] for row in rows]),
    ([row["step"] for row in evals], [row["eval/avg_loss"] for row in evals]),
    (steps, [row.get("pruning/nonzero_prunable", num_prunable) for row in rows]),
  )
