"""Tables of runs from trackers: a Weights & Biases export, TensorBoard event files, and params/tokens/loss tables.

MaxText writes the same metric names into its metrics file, TensorBoard and whatever follows TensorBoard, so `pruning/*`,
`learning/*` and `eval/avg_loss` are what all of them have. A dense run has no `pruning/*` metrics, so nothing there says
how many of its weights are prunable: the caller does.
"""

from collections.abc import Iterator, Mapping
import os
import struct
from typing import Any

import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.curves import make_curve
from maxtext_sparse.runs.columns import COLUMNS, COUNTS
from maxtext_sparse.runs.metrics import train_rows

# Columns of a runs export -> where their value may stand, first one first. W&B prefixes vary with the way of export.
_EXPORTED = {
  "run": ("run", "Name", "name", "run_name"),
  "sparsity": ("sparsity",),
  "dense_params": ("dense_params", "pruning/prunable"),
  "average_params": ("average_params", "pruning/average_params"),
  "final_params": ("final_params", "pruning/nonzero_prunable"),
  "tokens": ("tokens",),
  "loss": ("loss", "eval/avg_loss"),
}
_PREFIXES = ("", "config.", "config/", "summary.", "summary/")
# Names of the Chinchilla form, as published tables have them.
_CHINCHILLA = {
  "params": ("params", "Model Size", "model_size", "N"),
  "tokens": ("tokens", "Training Tokens", "training_tokens", "D"),
  "loss": ("loss", "Loss", "final_loss"),
}
# A TFRecord: length (8 bytes), checksum of it (4), the record, checksum of that (4).
_LENGTH = struct.Struct("<Q")


def read_export(path: str, dense_params: Mapping[str, float]) -> pd.DataFrame:
  """The runs of a Weights & Biases runs table, exported as CSV.

  Args:
    path: CSV file with a row for each run.
    dense_params: run, or `*` for all others -> prunable weights, for runs whose row does not have them.

  Raises:
    ConfigError: the file cannot be read, or a run lacks a value.
  """
  frame = _read_csv(path)
  if "State" in frame:
    frame = frame[frame["State"] == "finished"]
  if frame.empty:
    raise ConfigError(f"{path}: has no finished run")
  rows = [_exported_row(path, row, dense_params) for row in frame.to_dict("records")]
  return pd.DataFrame(rows, columns=list(COLUMNS))


def read_event_files(path: str, dense_params: Mapping[str, float]) -> pd.DataFrame:
  """The runs whose TensorBoard event files lie below a folder; each folder with such files is a run.

  Args:
    path: folder.
    dense_params: run, or `*` for all others -> prunable weights, for dense runs.

  Raises:
    ConfigError: there is no event file, or a run has no training metrics or no prunable weights.
  """
  rows = []
  for folder, _, names in sorted(os.walk(path)):
    files = sorted(os.path.join(folder, name) for name in names if ".tfevents." in name)
    if files:
      rows.append(_run_of_events(path, folder, files, dense_params))
  if not rows:
    raise ConfigError(f"{path}: holds no TensorBoard event file (*.tfevents.*)")
  return pd.DataFrame(rows, columns=list(COLUMNS))


def read_chinchilla(path: str, dense_params: Mapping[str, float]) -> pd.DataFrame:
  """Dense runs from a table of params, tokens and loss; every size is the same.

  Raises:
    ConfigError: the file cannot be read, or a column is missing.
  """
  del dense_params
  frame = _read_csv(path)
  found = {name: next((c for c in choices if c in frame), None) for name, choices in _CHINCHILLA.items()}
  missing = [name for name, column in found.items() if column is None]
  if missing:
    raise ConfigError(f"{path}: column {', '.join(missing)} is missing, the Chinchilla form has params, tokens, loss")
  values = {name: frame[column] for name, column in found.items()}
  names = frame["run"] if "run" in frame else pd.Series([f"run_{index:03d}" for index in range(len(frame))])
  sizes = dict.fromkeys(COUNTS[:3], values["params"])
  return pd.DataFrame({"run": names, "sparsity": 0.0, **sizes, "tokens": values["tokens"], "loss": values["loss"]})


def parse_dense_params(texts: list[str]) -> dict[str, float]:
  """Reads `--dense-params`: COUNT for all runs that lack it, or RUN=COUNT for one.

  Raises:
    ConfigError: it is not of that form.
  """
  known = {}
  for text in texts:
    name, separator, count = text.rpartition("=")
    try:
      known[name if separator else "*"] = float(count)
    except ValueError:
      raise ConfigError(f"--dense-params={text}: must be COUNT or RUN=COUNT") from None
  return known


def _exported_row(path: str, row: Mapping[str, Any], dense_params: Mapping[str, float]) -> dict[str, Any]:
  found = {column: _first(row, names) for column, names in _EXPORTED.items()}
  name = str(found["run"])
  if found["dense_params"] is None:
    found["dense_params"] = _known(path, name, dense_params)
  dense = float(found["dense_params"])
  if found["sparsity"] in (None, 0.0):
    found |= {"sparsity": 0.0, "average_params": dense, "final_params": dense}
  if found["tokens"] is None:
    found["tokens"] = _tokens(row, found["average_params"])
  missing = [column for column, value in found.items() if value is None]
  if missing:
    where = ", ".join(_EXPORTED[missing[0]])
    raise ConfigError(f"{path}: run {name} has no {missing[0]}, export a column {where}")
  return found


def _tokens(row: Mapping[str, Any], average: Any) -> float | None:
  """D from the effective FLOPs that a sparse run logs, 6 N_avg D."""
  flops = _first(row, ("pruning/effective_flops",))
  return None if flops is None or average is None else float(flops) / (6.0 * float(average))


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
  for name in names:
    for prefix in _PREFIXES:
      value = row.get(prefix + name)
      if value is not None and not pd.isna(value):
        return value
  return None


def _known(path: str, name: str, dense_params: Mapping[str, float]) -> float:
  count = dense_params.get(name, dense_params.get("*"))
  if count is None:
    raise ConfigError(f"{path}: run {name} does not say how many weights are prunable, give --dense-params {name}=COUNT")
  return count


def _run_of_events(root: str, folder: str, files: list[str], dense_params: Mapping[str, float]) -> dict[str, Any]:
  name = os.path.relpath(folder, root)
  name = (
    os.path.basename(os.path.abspath(root)) if name == "." else name.replace(os.sep, "/").removesuffix("/tensorboard")
  )
  steps: dict[int, dict[str, Any]] = {}
  for file in files:
    for step, tag, value in _scalars(file):
      steps.setdefault(step, {"step": step})[tag] = value
  rows = [steps[step] for step in sorted(steps)]
  train = train_rows(rows)
  if not train:
    raise ConfigError(f"{folder}: no training metrics (learning/loss) in its event files")
  dense = train[0].get("pruning/prunable") or _known(folder, name, dense_params)
  return make_curve(name, rows, float(dense)).to_row()


def _scalars(path: str) -> Iterator[tuple[int, str, float]]:
  """(step, tag, value) of the scalars in an event file. A record that is cut off ends the file."""
  from tensorboardX.proto.event_pb2 import Event

  with open(path, "rb") as file:
    data = file.read()
  place = 0
  while place + 12 <= len(data):
    (length,) = _LENGTH.unpack_from(data, place)
    begin, place = place + 12, place + 12 + length + 4
    if place > len(data):
      return
    event = Event.FromString(data[begin : begin + length])
    for value in event.summary.value:
      if value.WhichOneof("value") == "simple_value":
        yield event.step, value.tag, value.simple_value
      elif value.WhichOneof("value") == "tensor" and value.tensor.float_val:
        yield event.step, value.tag, value.tensor.float_val[0]


def _read_csv(path: str) -> pd.DataFrame:
  try:
    return pd.read_csv(path)
  except (OSError, ValueError) as error:
    raise ConfigError(f"{path}: not a readable CSV file ({' '.join(str(error).split())})") from error
