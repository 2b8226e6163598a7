"""Rows of MaxText's metrics: one JSON object a line, in a local file or in the files that MaxText uploads to a bucket.

There is one rule for damage. A last line that is not whole is left out, because a run that is killed, or is writing just
now, leaves one behind. Any other line that is not a JSON object makes the file unreadable, and the error names it.
"""

from collections.abc import Iterable, Mapping, Sequence
import json
import os
import re
from typing import Any

from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.runs.files import replace_text

Row = dict[str, Any]

_LOSS, _EVAL_LOSS = "learning/loss", "eval/avg_loss"
# Enough of a file's end to hold the last train row and the last eval row of any run.
_TAIL_BYTES = 32_768


def read_rows(path: str) -> list[Row]:
  """All rows of a metrics file in the order of its lines.

  Raises:
    ConfigError: the file cannot be read, or a line before the last is not a JSON object.
  """
  try:
    with open(path, "rb") as file:
      return parse_rows(file.read(), path)
  except OSError as error:
    raise ConfigError(f"{path}: cannot read these metrics ({error.strerror})") from error


def latest_rows(path: str) -> tuple[Row, Row]:
  """The last train row and the last eval row near the end of a metrics file. Each is empty where there is none.

  Raises:
    ConfigError: as `read_rows`, but a missing file has no rows.
  """
  try:
    with open(path, "rb") as file:
      start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
      file.seek(start)
      text = file.read()
  except FileNotFoundError:
    return {}, {}
  # A tail begins somewhere within a line.
  rows = parse_rows(text.partition(b"\n")[2] if start else text, path)
  return last_of(train_rows(rows)), last_of(eval_rows(rows))


def read_uploaded_rows(directory: Any) -> list[Row]:
  """All rows that MaxText uploaded for a run (`gcs_metrics`), from its files `metrics/metrics_step_A_to_step_B.txt`.

  Rows that two files hold come twice, those of the file that ends later last.

  Args:
    directory: the run's folder: a URL, a local path, or a folder of a `Listing`.
  """
  return [row for file in _uploaded_files(directory) for row in parse_rows(file.read_bytes(), str(file))]


def latest_uploaded_rows(directory: Any) -> tuple[Row, Row]:
  """The last train row and the last eval row near the end of what MaxText uploaded. Each is empty where there is none.

  The last file of a finished run has both.

  Args:
    directory: as for `read_uploaded_rows`.
  """
  train: Row = {}
  evaluated: Row = {}
  for file in reversed(_uploaded_files(directory)):
    rows = parse_rows(file.read_bytes(), str(file))
    train, evaluated = last_of(train_rows(rows)), evaluated or last_of(eval_rows(rows))
    if train:
      break
  return train, evaluated


def upload_rows(folder: str, first: int, last: int, rows: Iterable[Row]) -> str:
  """Writes rows as one of the files that `read_uploaded_rows` finds; its path.

  Args:
    folder: the run's folder `metrics`, a URL or a local path.
    first, last: the steps of the rows.
    rows: in order.

  Raises:
    RunError: the file cannot be written.
  """
  from etils import epath  # comes with MaxText

  path = epath.Path(folder) / f"metrics_step_{first:06}_to_step_{last:06}.txt"
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text_of(rows))
  except OSError as error:
    raise RunError(
      f"{path}: cannot write these metrics ({error.strerror or error}); the same command goes on from the last checkpoint"
    ) from error
  return str(path)


def row_of(scalars: Mapping[str, Any], step: int, run_name: str) -> Row:
  """A row as MaxText writes it: all scalars and the step as floats, and the run's name."""
  return {name: float(value) for name, value in scalars.items()} | {"step": float(step), "run_name": run_name}


def parse_rows(text: bytes, name: str) -> list[Row]:
  """The rows of a metrics file's content.

  Args:
    text: the content, or the end of it from the beginning of a line on.
    name: what an error calls the file.

  Raises:
    ConfigError: a line before the last is not a JSON object.
  """
  lines = text.splitlines(keepends=True)
  rows = []
  for number, line in enumerate(lines, start=1):
    row = _row(line)
    if row is not None:
      rows.append(row)
    elif line.strip() and (number < len(lines) or line.endswith(b"\n")):
      raise ConfigError(f"{name}: line {number} is not a row of MaxText's metrics ({_beginning(line)})")
  return rows


def train_rows(rows: Iterable[Row]) -> list[Row]:
  """The rows of train steps, which have `learning/loss`."""
  return [row for row in rows if _LOSS in row]


def eval_rows(rows: Iterable[Row]) -> list[Row]:
  """The rows of evaluations, which have `eval/avg_loss`."""
  return [row for row in rows if _EVAL_LOSS in row]


def last_of(rows: Sequence[Row]) -> Row:
  """The last row, an empty one if there is none."""
  return rows[-1] if rows else {}


def once_per_step(rows: Iterable[Row]) -> list[Row]:
  """Rows in the order of their steps. Where a resumed run repeated a step, its last row counts."""
  found = {(float(row["step"]), _EVAL_LOSS in row): row for row in rows if "step" in row}
  return [found[key] for key in sorted(found)]


def drop_rows_from(path: str, start_step: int) -> None:
  """Keeps the rows of steps before `start_step`, because a resumed run writes the others again.

  Makes the file and its folder if they are missing.
  """
  kept = [row for row in read_rows(path) if row["step"] < start_step] if os.path.exists(path) else []
  write_rows(path, kept)


def write_rows(path: str, rows: Iterable[Row]) -> None:
  """Replaces a local metrics file by these rows."""
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  replace_text(path, text_of(rows))


def text_of(rows: Iterable[Row]) -> str:
  """The content of a metrics file with these rows."""
  return "".join(json.dumps(row) + "\n" for row in rows)


def _row(line: bytes) -> Row | None:
  try:
    row = json.loads(line)
  except ValueError:
    return None
  return row if isinstance(row, dict) else None


def _beginning(line: bytes) -> str:
  return repr(line[:40].decode("utf-8", errors="replace").strip())


def _uploaded_files(directory: Any) -> list[Any]:
  """The files with uploaded rows, in the order of their steps."""
  from etils import epath  # comes with MaxText

  folder = (epath.Path(directory) if isinstance(directory, str) else directory) / "metrics"
  return sorted(folder.glob("metrics_step_*.txt"), key=_steps_in_name) if folder.exists() else []


def _steps_in_name(path: Any) -> tuple[int, ...]:
  """(last step, first step) of an uploaded file, by which the files are ordered."""
  first, last = re.findall(r"\d+", path.name)[-2:]
  return int(last), int(first)
