"""What the demo shows at the end: the figures of both runs as a dict, as a table, and the curves as a PNG."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from rich.console import Console

from maxtext_sparse.demo.training import RunSpec
from maxtext_sparse.local.progress import print_line
from maxtext_sparse.runs.metrics import eval_rows, read_rows, Row, train_rows
from maxtext_sparse.runs.record import RunRecord
from maxtext_sparse.schedule import Schedule
from maxtext_sparse.terminal import new_table

# A matrix with fewer of its weights left is as good as gone.
COLLAPSED = 0.01


@dataclasses.dataclass(frozen=True)
class RunResult:
  """One run's figures. Parameters are those of the prunable matrices, embeddings and norms come on top in both runs.

  Attributes:
    eval_loss: mean cross-entropy on the held-out text after the last step, nats per token.
    final_params: non-zero parameters at the end.
    average_params: their mean over the steps.
    effective_flops: 6 x active parameters x tokens, summed over the steps.
    density: final_params as a share of all.
    thinnest_matrix: name of the matrix with the lowest density at the end, None if nothing was pruned.
    thinnest_density: its density.
    seconds: wall time of all attempts, start-up and compilation included.
  """

  eval_loss: float
  final_params: int
  average_params: float
  effective_flops: float
  density: float
  thinnest_matrix: str | None
  thinnest_density: float
  seconds: float


@dataclasses.dataclass(frozen=True)
class Curves:
  """What is plotted: (steps, values) of each."""

  train_loss: tuple[list[float], list[float]]
  eval_loss: tuple[list[float], list[float]]
  params: tuple[list[float], list[float]]


def dense_result(rows: Sequence[Row], evals: Sequence[Row], prunable: int, seconds: float) -> RunResult:
  """Figures of a run that prunes nothing; `prunable` is what the sparse run's metrics say, this one's have no count."""
  tokens = rows[-1]["perf/per_device_tokens"] * (rows[-1]["step"] + 1)
  return RunResult(evals[-1]["eval/avg_loss"], prunable, prunable, 6.0 * prunable * tokens, 1.0, None, 1.0, seconds)


def sparse_result(rows: Sequence[Row], evals: Sequence[Row], densities: dict[str, float], seconds: float) -> RunResult:
  """Figures of a sparse run; `densities` are those of its matrices after the last event, by name."""
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


def read_results(dense: RunSpec, sparse: RunSpec, schedule: Schedule) -> tuple[dict[str, RunResult], dict[str, Curves]]:
  """Figures and curves of two finished runs."""
  dense_rows, dense_evals = _rows(dense)
  sparse_rows, sparse_evals = _rows(sparse)
  prunable = int(sparse_rows[-1]["pruning/prunable"])
  event = RunRecord(sparse.directory).read_event(schedule.end) or {}
  results = {
    "dense": dense_result(dense_rows, dense_evals, prunable, dense.seconds),
    "sparse": sparse_result(sparse_rows, sparse_evals, event.get("matrices", {}), sparse.seconds),
  }
  curves = {
    "dense": _curves(dense_rows, dense_evals, prunable),
    "sparse": _curves(sparse_rows, sparse_evals, prunable),
  }
  return results, curves


def _rows(spec: RunSpec) -> tuple[list[Row], list[Row]]:
  rows = read_rows(spec.metrics_file)
  return train_rows(rows), eval_rows(rows)


def print_table(console: Console, results: dict[str, RunResult], titles: dict[str, str]) -> None:
  """The comparison; a collapsed matrix is said so under it."""
  table = new_table(["", *(titles[name] for name in results)], title="Pre-training on the standard library's text")
  for label, text in _TABLE:
    table.add_row(label, *(text(result) for result in results.values()))
  console.print(table)
  for name, result in results.items():
    if result.thinnest_density < COLLAPSED:
      left = f"{result.thinnest_density:.2%} of its weights are left"
      print_line(console, f"{titles[name]}: {result.thinnest_matrix} has collapsed, {left}")


def draw(path: str, curves: dict[str, Curves], titles: dict[str, str]) -> None:
  """Two panels over the steps: loss, and active parameters N(t). Line styles tell the runs apart without colour."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot
  from matplotlib.ticker import EngFormatter

  figure, (loss_axes, params_axes) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
  for (name, curve), style in zip(curves.items(), _STYLES):
    loss_axes.plot(*smoothed(curve.train_loss), color=style["color"], alpha=0.35, linewidth=1)
    loss_axes.plot(*curve.eval_loss, label=f"{titles[name]}, held-out", marker=style["marker"], **_line(style))
    params_axes.plot(*curve.params, label=titles[name], drawstyle="steps-post", **_line(style))
  # The first steps' steep fall would flatten the rest.
  highest = 1.1 * max(loss for curve in curves.values() for step, loss in zip(*curve.eval_loss) if step > 0)
  loss_axes.set(title="Loss (thin: training batches)", xlabel="step", ylabel="cross-entropy (nats per token)")
  loss_axes.set_ylim(top=highest)
  params_axes.set(title="Active parameters N(t)", xlabel="step", ylabel="non-zero prunable parameters", ylim=(0, None))
  params_axes.yaxis.set_major_formatter(EngFormatter(sep=""))
  for axes in (loss_axes, params_axes):
    axes.grid(alpha=0.3)
    axes.legend()
  figure.savefig(path, dpi=120, metadata={"Software": None})
  pyplot.close(figure)


def smoothed(curve: tuple[list[float], list[float]], num_points: int = 70) -> tuple[list[float], list[float]]:
  """Means over consecutive windows, at the windows' last steps: single batches jump too much to be read."""
  steps, values = curve
  window = max(1, len(values) // num_points)
  starts = range(0, len(values) - window + 1, window)
  return [steps[i + window - 1] for i in starts], [sum(values[i : i + window]) / window for i in starts]


def _curves(rows: Sequence[Row], evals: Sequence[Row], prunable: int) -> Curves:
  steps = [row["step"] for row in rows]
  return Curves(
    (steps, [row["learning/loss"] for row in rows]),
    ([row["step"] for row in evals], [row["eval/avg_loss"] for row in evals]),
    (steps, [row.get("pruning/nonzero_prunable", prunable) for row in rows]),
  )


def _thinnest(result: RunResult) -> str:
  if result.thinnest_matrix is None:
    return "-"
  name = result.thinnest_matrix.removeprefix("decoder/").removeprefix("layers/").replace("/kernel", "")
  return f"{result.thinnest_density:.1%} {name}"


_TABLE = (
  ("eval loss (nats per token)", lambda r: f"{r.eval_loss:.3f}"),
  ("parameters at the end", lambda r: f"{r.final_params:,}"),
  ("average parameters", lambda r: f"{r.average_params:,.0f}"),
  ("effective FLOPs", lambda r: f"{r.effective_flops:.3g}"),
  ("density at the end", lambda r: f"{r.density:.1%}"),
  ("thinnest matrix", _thinnest),
  ("wall time (s)", lambda r: f"{r.seconds:.0f}"),
)

_STYLES = (
  {"color": "#222222", "linestyle": "-", "marker": "o"},
  {"color": "#d95f02", "linestyle": "--", "marker": "s"},
)


def _line(style: dict[str, Any]) -> dict[str, Any]:
  return {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.8}
