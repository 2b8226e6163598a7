"""RUNS.csv: one row for each finished run, read and checked.

Columns:
  run: name.
  sparsity: S, the share of the prunable weights that is removed in the end.
  dense_params, average_params, final_params: prunable weights at the start, on average over the steps, and at the end.
  tokens: D, training tokens.
  loss: final evaluation loss, nats per token.

Optional columns: `weight` (how much the run counts in a fit, 1 by default) and `bits` (precision of the weights, for the
multiplier laws). Further columns are kept.
"""

import csv
import io
import os
import re
from typing import Any

import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError, did_you_mean
from maxtext_sparse.laws import Array
from maxtext_sparse.runs.columns import COLUMNS, COUNTS

# Columns that a fit uses where the table has them.
_OPTIONAL = ("weight", "bits")

# Relative slack of final <= average <= dense and final >= dense (1 - S). Rounded tables pass, mixed units do not.
_SLACK = 0.01
# In no study is a run this many times the median run. In a column that mixes thousands and millions, one is.
_MIXED_UNITS = 1e4
# No run is smaller or shorter. A count that was written in millions is.
_LEAST_COUNT = 1000


def read_runs(path: str, loss_column: str = "loss") -> pd.DataFrame:
  """Reads and checks a runs table. Its numeric columns come out as floats.

  Args:
    path: CSV file.
    loss_column: the column that becomes `loss`, for runs with several evaluations.

  Raises:
    ConfigError: the file cannot be read, or the first problem found, with its row.
  """
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      text = file.read()
    if "\0" in text:
      raise ConfigError(f"{path}: not a readable CSV file (NUL bytes, not a text file)")
    _refuse_repeated(text, path)
    frame = pd.read_csv(io.StringIO(text), skipinitialspace=True)
  except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
    raise ConfigError(f"{path}: not a readable CSV file ({_first_line(error)})") from error
  return check_runs(_with_loss(frame, loss_column, path), os.path.basename(path))


def check_runs(frame: pd.DataFrame, name: str = "runs") -> pd.DataFrame:
  """The table with its numeric columns converted, after every check.

  Args:
    frame: columns as in `COLUMNS`, and any others.
    name: what messages call the table.

  Raises:
    ConfigError: the first problem found, with row, column and value.
  """
  missing = [column for column in COLUMNS if column not in frame.columns]
  if missing:
    found = ", ".join(map(str, frame.columns[:12]))
    hint = "; write commas between columns" if len(frame.columns) == 1 and re.search(r"[;\t]", found) else ""
    raise ConfigError(f"{name}: column {', '.join(missing)} is missing, the file has {found[:120]!r}{hint}")
  if frame.empty:
    raise ConfigError(f"{name}: has no rows")
  frame = frame.reset_index(drop=True).assign(run=frame["run"].astype(str).to_numpy())
  for column in (*COLUMNS[1:], *(column for column in _OPTIONAL if column in frame)):
    frame[column] = _numbers(frame, column, name)
  _check_sparsity(frame, name)
  _check_units(frame, name)
  return frame


def _with_loss(frame: pd.DataFrame, column: str, path: str) -> pd.DataFrame:
  if column == "loss":
    return frame
  if column not in frame.columns:
    near = did_you_mean(column, map(str, frame.columns))
    raise ConfigError(f"--loss-column={column}: {path} has no such column{near}")
  return frame.assign(loss=frame[column])


def _refuse_repeated(text: str, path: str) -> None:
  """Raises ConfigError if two columns have one name. Pandas would rename the second one and say nothing."""
  header = [name.strip() for name in next(csv.reader(io.StringIO(text)), [])]
  for name in header:
    if name and header.count(name) > 1:
      raise ConfigError(f"{path}: has the column {name} twice, keep one")


def row_label(frame: pd.DataFrame, row: int, name: str) -> str:
  """Where a problem is. Rows count from 1 after the header line."""
  return f"{name}, row {row + 1} (run {frame['run'].iloc[row]})"


def _numbers(frame: pd.DataFrame, column: str, name: str) -> Array:
  values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
  is_bad = ~np.isfinite(values) | ((values < 0) if column == "sparsity" else (values <= 0))
  if is_bad.any():
    row = int(np.argmax(is_bad))
    expected = "a number in [0, 1)" if column == "sparsity" else "a positive number"
    raise ConfigError(f"{row_label(frame, row, name)}: {column}={_shown(frame[column].iloc[row])}: must be {expected}")
  return np.asarray(values)


def _check_sparsity(frame: pd.DataFrame, name: str) -> None:
  is_bad = frame["sparsity"].to_numpy() >= 1
  if is_bad.any():
    row = int(np.argmax(is_bad))
    value = frame["sparsity"].iloc[row]
    hint = f"; in percent? write {value / 100:g}" if value < 100 else ""
    raise ConfigError(f"{row_label(frame, row, name)}: sparsity={value:g}: must be a number in [0, 1){hint}")


def _check_units(frame: pd.DataFrame, name: str) -> None:
  """Checks that the counts of a row agree with each other and its sparsity, and those of a column with each other."""
  for column in COUNTS:
    _check_one_unit(frame, column, name)
  dense, average, final = (frame[column].to_numpy() for column in COUNTS[:3])
  kept = dense * (1.0 - frame["sparsity"].to_numpy())
  for low, low_name, high, high_name in (
    (final, "final_params", average, "average_params"),
    (average, "average_params", dense, "dense_params"),
    (kept, "dense_params x (1 - sparsity)", final, "final_params"),
  ):
    is_bad = low > high * (1 + _SLACK)
    if is_bad.any():
      row = int(np.argmax(is_bad))
      raise ConfigError(
        f"{row_label(frame, row, name)}: {low_name}={low[row]:g} is above {high_name}={high[row]:g}, "
        "are the units mixed? write plain counts of prunable weights"
      )


def _check_one_unit(frame: pd.DataFrame, column: str, name: str) -> None:
  values = frame[column].to_numpy()
  ratio = np.abs(np.log(values / np.median(values)))
  row = int(np.argmax(ratio))
  if ratio[row] > np.log(_MIXED_UNITS):
    raise ConfigError(
      f"{row_label(frame, row, name)}: {column}={values[row]:g}: the column's median is {np.median(values):g}, "
      "are the units mixed? write plain counts"
    )
  if values.min() < _LEAST_COUNT:
    row = int(np.argmin(values))
    raise ConfigError(
      f"{row_label(frame, row, name)}: {column}={values[row]:g}: must be at least {_LEAST_COUNT}, "
      "in millions or billions? write plain counts"
    )


def _shown(value: Any) -> str:
  return "(empty)" if pd.isna(value) else str(value)


def _first_line(error: Exception) -> str:
  return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
