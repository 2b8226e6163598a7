"""Reads what figures are drawn from: runs tables, MaxText metrics files (one JSON object a line), run folders."""

from collections.abc import Iterator, Mapping, Sequence
import os
from typing import Any

import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.curves import Curve, make_curve
from maxtext_sparse.laws.runs_table import check_runs, read_runs
from maxtext_sparse.runs.metrics import once_per_step, read_rows, train_rows


def read_inputs(paths: Sequence[str]) -> tuple[list[Curve], pd.DataFrame]:
  """All curves, and one table with a row for each run.

  The metrics of a dense run do not say how many weights are prunable, so it needs a row in a table.

  Raises:
    ConfigError: a path is neither a table nor metrics, or a dense run has no row.
  """
  tables = [read_runs(path) for path in paths if path.endswith(".csv")]
  table = pd.concat(tables, ignore_index=True) if tables else None
  files = [file for path in paths if not path.endswith(".csv") for file in _metrics_files(path)]
  curves = [_read_curve(file, table) for file in files]
  if table is None:
    table = check_runs(pd.DataFrame([curve.to_row() for curve in curves]), "metrics")
  return curves, table


def read_tables(paths: Sequence[str], columns: Sequence[str] = ()) -> pd.DataFrame:
  """The runs tables of all paths in one.

  Args:
    paths: tables.
    columns: further columns that must be there and hold numbers.

  Raises:
    ConfigError: a path is not a table, or a column is missing or not numeric.
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
    raise ConfigError(
      f"{path}: holds no metrics file (metrics*.txt, metrics*.json or *.jsonl); a run with metrics_file writes one"
    )
  yield from found


def _read_curve(path: str, table: pd.DataFrame | None) -> Curve:
  rows = once_per_step(read_rows(path))
  train = train_rows(rows)
  if not train:
    raise ConfigError(f"{path}: not a MaxText metrics file, no line has step and learning/loss")
  name = str(train[-1].get("run_name") or os.path.splitext(os.path.basename(path))[0])
  return make_curve(name, rows, _dense_params(path, name, train[0], table))


def _dense_params(path: str, name: str, row: Mapping[str, Any], table: pd.DataFrame | None) -> float:
  if "pruning/prunable" in row:
    return float(row["pruning/prunable"])
  match = table[table["run"] == name] if table is not None else pd.DataFrame()
  if match.empty:
    raise ConfigError(
      f"{path}: run {name} has no pruning metrics (a dense run?), give a RUNS.csv with a row for it as well"
    )
  return float(match["dense_params"].iloc[0])
