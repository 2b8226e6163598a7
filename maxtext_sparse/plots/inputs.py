"""Reads what figures are drawn from: runs tables, MaxText metrics files (one JSON object a line), run folders."""

from collections.abc import Iterator, Sequence
import dataclasses
import os

import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.runs_table import check_runs, read_runs
from maxtext_sparse.runs.metrics import eval_rows, once_per_step, read_rows, train_rows

# Steps at the end of training whose mean loss stands in for a missing evaluation.
_LAST_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Curve:
  """The training of one run, a value for each step [t].

  Attributes:
    name: run name.
    step: step number.
    loss: training loss, nats per token.
    active: prunable weights active in the step's forward pass.
    tokens: tokens of the step.
    target: target density after the step; all 1 for a dense run.
    eval_loss: last evaluation, or the mean of the last training steps.
  """

  name: str
  step: np.ndarray
  loss: np.ndarray
  active: np.ndarray
  tokens: np.ndarray
  target: np.ndarray
  eval_loss: float

  @property
  def sparsity(self) -> float:
    return 1.0 - float(self.target[-1])

  @property
  def flops(self) -> np.ndarray:
    """Effective compute up to and including each step, 6 N D [t]."""
    return np.cumsum(6.0 * self.active * self.tokens)

  @property
  def period(self) -> int:
    """Steps between pruning events; the paper's 100 where there are none."""
    events = self.step[1:][np.diff(self.target) != 0]
    return int(np.median(np.diff(events))) if len(events) > 2 else 100


def read_inputs(paths: Sequence[str]) -> tuple[list[Curve], pd.DataFrame]:
  """All curves, and one table with a row for each run.

  A dense run's metrics do not say how many weights are prunable: it needs a row in a table.

  Raises:
    ConfigError: a path that is neither, or a dense run without a row.
  """
  tables = [read_runs(path) for path in paths if path.endswith(".csv")]
  table = pd.concat(tables, ignore_index=True) if tables else None
  files = [file for path in paths if not path.endswith(".csv") for file in _metrics_files(path)]
  curves = [_read_curve(file, table) for file in files]
  if table is None:
    table = check_runs(pd.DataFrame([_row(curve) for curve in curves]), "metrics")
  return curves, table


def read_tables(paths: Sequence[str], columns: Sequence[str] = ()) -> pd.DataFrame:
  """The runs tables of all paths in one, with further numeric columns required.

  Raises:
    ConfigError: a path that is no table, or a column that is missing or not numeric.
  """
  table = pd.concat([read_runs(path) for path in paths], ignore_index=True)
  for column in columns:
    if column not in table:
      raise ConfigError(f"{paths[0]}: column {column} is missing, this figure needs {', '.join(columns)}")
    values = pd.to_numeric(table[column], errors="coerce")
    if values.isna().any():
      row = int(np.argmax(values.isna()))
      raise ConfigError(f"{paths[0]}, row {row + 1}: {column}={table[column].iloc[row]}: must be a number")
    table[column] = values.astype(float)
  return table


def _metrics_files(path: str) -> Iterator[str]:
  if os.path.isfile(path):
    yield path
    return
  if not os.path.isdir(path):
    raise ConfigError(f"{path}: no such file or folder")
  found = [
    os.path.join(folder, name)
    for folder, _, names in sorted(os.walk(path))
    for name in sorted(names)
    if name.endswith(".jsonl") or (name.startswith("metrics") and name.endswith((".txt", ".json")))
  ]
  if not found:
    raise ConfigError(f"{path}: holds no metrics file (metrics*.txt, metrics*.json or *.jsonl), set metrics_file")
  yield from found


def _read_curve(path: str, table: pd.DataFrame | None) -> Curve:
  rows = once_per_step(read_rows(path))
  train = train_rows(rows)
  if not train:
    raise ConfigError(f"{path}: not a MaxText metrics file, no line has step and learning/loss")
  column = lambda name, default: np.array([row.get(name, default) for row in train], dtype=np.float64)
  name = str(train[-1].get("run_name") or os.path.splitext(os.path.basename(path))[0])
  loss = column("learning/loss", np.nan)
  evals = [row["eval/avg_loss"] for row in eval_rows(rows)]
  dense = _dense_params(path, name, train[0], table)
  # The count in a row is taken after the step's update.
  active = np.concatenate([[dense], column("pruning/nonzero_prunable", dense)[:-1]])
  return Curve(
    name=name,
    step=column("step", np.nan),
    loss=loss,
    active=active,
    tokens=column("learning/total_weights", np.nan),
    target=column("pruning/target_density", 1.0),
    eval_loss=float(evals[-1] if evals else loss[-_LAST_STEPS:].mean()),
  )


def _dense_params(path: str, name: str, row: dict, table: pd.DataFrame | None) -> float:
  if "pruning/prunable" in row:
    return float(row["pruning/prunable"])
  match = table[table["run"] == name] if table is not None else pd.DataFrame()
  if match.empty:
    raise ConfigError(
      f"{path}: run {name} has no pruning metrics (a dense run?), give a RUNS.csv with a row for it as well"
    )
  return float(match["dense_params"].iloc[0])


def _row(curve: Curve) -> dict:
  dense = curve.active[0]
  return {
    "run": curve.name,
    "sparsity": curve.sparsity,
    "dense_params": dense,
    "average_params": float(curve.active.mean()),
    "final_params": dense * float(curve.target[-1]),
    "tokens": float(curve.tokens.sum()),
    "loss": curve.eval_loss,
  }
