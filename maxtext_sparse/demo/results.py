"""The demo's results: the final figures of the dense run, the sparse run and its twin, and the curves of the picture."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from maxtext_sparse.demo.training import Runs, RunSpec
from maxtext_sparse.demo.twin import changed
from maxtext_sparse.laws.shapes import Shape
from maxtext_sparse.plan.twins import Twin
from maxtext_sparse.runs.metrics import eval_rows, read_rows, Row, train_rows
from maxtext_sparse.runs.record import RunRecord
from maxtext_sparse.schedule import Schedule
from maxtext_sparse.weights.bitmask import packed_bytes

# Bytes of a number in bfloat16.
_BF16 = 2

# (steps, values), two lists of one length.
Curve = tuple[list[float], list[float]]


@dataclasses.dataclass(frozen=True)
class RunResult:
  """The final figures of one run.

  Parameters are those of the prunable matrices. Embeddings and norms come on top of them.

  Attributes:
    eval_loss: mean cross-entropy on the held-out text after the last step, in nats per token.
    final_params: number of parameters at the end that are not zero.
    average_params: mean of this number over the steps.
    effective_flops: 6 x active parameters x tokens, summed over the steps.
    export_bytes: size of all tensors of the exported model in bfloat16, with its embeddings and norms. A sparse model is
      exported with a bit mask.
    density: final_params divided by the number of all prunable parameters.
    thinnest_matrix: name of the matrix with the lowest density at the end, None if nothing was pruned.
    thinnest_density: its density.
    seconds: wall time of all attempts, with start-up and compilation.
  """

  eval_loss: float
  final_params: int
  average_params: float
  effective_flops: float
  export_bytes: int
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


def dense_result(rows: Sequence[Row], evals: Sequence[Row], shape: Shape, seconds: float) -> RunResult:
  """The figures of a dense run. Its metrics do not hold the number of prunable weights, its shape does."""
  tokens = rows[-1]["perf/per_device_tokens"] * (rows[-1]["step"] + 1)
  num_prunable = shape.prunable
  flops = 6.0 * num_prunable * tokens
  num_bytes = _BF16 * shape.total
  return RunResult(evals[-1]["eval/avg_loss"], num_prunable, num_prunable, flops, num_bytes, 1.0, None, 1.0, seconds)


def sparse_result(
  rows: Sequence[Row], evals: Sequence[Row], densities: Mapping[str, float], shape: Shape, seconds: float
) -> RunResult:
  """The figures of the sparse run; `densities` are matrix -> density after the last event."""
  last = rows[-1]
  thinnest = min(densities, key=densities.__getitem__, default=None)
  num_nonzero = int(last["pruning/nonzero_prunable"])
  num_others = shape.total - shape.prunable
  return RunResult(
    evals[-1]["eval/avg_loss"],
    num_nonzero,
    last["pruning/average_params"],
    last["pruning/effective_flops"],
    packed_bytes(shape.matrices, num_nonzero, _BF16) + _BF16 * num_others,
    last["pruning/density"],
    thinnest,
    last["pruning/min_matrix_density"],
    seconds,
  )


def read_results(
  runs: Runs, schedule: Schedule, shape: Shape, twin: Twin
) -> tuple[dict[str, RunResult], dict[str, RunCurves]]:
  """Figures and curves of the finished runs, by the names `dense`, `sparse` and `twin`.

  Args:
    runs: the runs.
    schedule: that of the sparse run.
    shape: that of the dense and the sparse model.
    twin: the neighbours of the sparse run's average size, with their weights.
  """
  dense_rows, dense_evals = _rows(runs.dense)
  sparse_rows, sparse_evals = _rows(runs.sparse)
  event = RunRecord(runs.sparse.directory).read_event(schedule.end) or {}
  neighbours = [
    (*_rows(spec), changed(shape, neighbour.overrides), spec.seconds)
    for spec, neighbour in zip(runs.neighbours, twin.neighbours)
  ]
  weights = [neighbour.weight for neighbour in twin.neighbours]
  results = {
    "dense": dense_result(dense_rows, dense_evals, shape, runs.dense.seconds),
    "sparse": sparse_result(sparse_rows, sparse_evals, event.get("matrices", {}), shape, runs.sparse.seconds),
    "twin": _mean_result([dense_result(*neighbour) for neighbour in neighbours], weights),
  }
  curves = {
    "dense": _curves(dense_rows, dense_evals, shape.prunable),
    "sparse": _curves(sparse_rows, sparse_evals, shape.prunable),
    "twin": _mean_curves([_curves(rows, evals, small.prunable) for rows, evals, small, _ in neighbours], weights),
  }
  return results, curves


def _mean_result(results: Sequence[RunResult], weights: Sequence[float]) -> RunResult:
  """The figures between those of the neighbours. The time is that of all neighbours together."""

  def mean(name: str) -> float:
    return sum(weight * float(getattr(result, name)) for result, weight in zip(results, weights))

  size = round(mean("final_params"))
  seconds = sum(result.seconds for result in results)
  flops, num_bytes = mean("effective_flops"), round(mean("export_bytes"))
  return RunResult(mean("eval_loss"), size, size, flops, num_bytes, 1.0, None, 1.0, seconds)


def _mean_curves(curves: Sequence[RunCurves], weights: Sequence[float]) -> RunCurves:
  def mean(name: str) -> Curve:
    lines: list[Curve] = [getattr(curve, name) for curve in curves]
    assert all(steps == lines[0][0] for steps, _ in lines), "the neighbours have the same steps"
    values = [sum(w * value for w, value in zip(weights, point)) for point in zip(*(values for _, values in lines))]
    return lines[0][0], values

  return RunCurves(mean("train_loss"), mean("eval_loss"), mean("params"))


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
