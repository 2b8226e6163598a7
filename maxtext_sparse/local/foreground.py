"""Shows a run of this process as a bar in the terminal, while MaxText's own log goes into a file."""

from collections.abc import Iterator, Mapping
import contextlib
import logging
import os
import sys
import tempfile
from typing import Any, TextIO

from rich.console import Console

from maxtext_sparse.hooks.listeners import listening
from maxtext_sparse.local.progress import runs_progress
from maxtext_sparse.run_values import is_open, steps_of
from maxtext_sparse.runs.metrics import eval_rows, Row, train_rows
from maxtext_sparse.terminal import say

_LOG_FILE = "train.log"


@contextlib.contextmanager
def bar_and_log(values: Mapping[str, Any]) -> Iterator[None]:
  """A bar on the terminal in the with block, and in a file everything that MaxText and jax print.

  The plugin's own log lines, such as warnings and the summary, are shown above the bar too.

  Args:
    values: the keys that the run sets itself.
  """
  path = _log_path(values)
  with open(path, "a", encoding="utf-8") as log, _output_into(log) as terminal:
    console = Console(file=terminal)
    say(console, f"log: {path}")
    shown = logging.StreamHandler(_Above(console))
    logging.getLogger("maxtext_sparse").addHandler(shown)
    try:
      with runs_progress(console) as shown_run:
        report = shown_run(str(values.get("run_name") or "training"), _length(values))

        def tell(row: Row) -> None:
          train, evaluated = train_rows([row]), eval_rows([row])
          latest.update(train=train[0] if train else latest["train"], eval=evaluated[0] if evaluated else latest["eval"])
          report(latest["train"], latest["eval"])

        latest: dict[str, Row] = {"train": {}, "eval": {}}
        with listening(tell):
          yield
    finally:
      logging.getLogger("maxtext_sparse").removeHandler(shown)


def _length(values: Mapping[str, Any]) -> int:
  """T, or 1 where it is not known before MaxText has read the config."""
  return 1 if is_open(values.get("steps")) else steps_of(values) or 1


class _Above:
  """A stream for log lines that keeps them above the bar."""

  def __init__(self, console: Console):
    self._console = console

  def write(self, text: str) -> None:
    """Prints a line; the line break that logging adds comes with it."""
    if text.strip():
      say(self._console, text.rstrip("\n"))

  def flush(self) -> None:
    """The console has no buffer of its own."""


def _log_path(values: Mapping[str, Any]) -> str:
  """`train.log` in the folder of the run, or a temporary file where that is not on this machine."""
  output, name = str(values.get("base_output_directory") or ""), str(values.get("run_name") or "")
  if not output or not name or "://" in output or is_open(output) or is_open(name):
    handle, path = tempfile.mkstemp(prefix="maxtext_sparse_", suffix=".log")
    os.close(handle)
    return path
  folder = os.path.join(output, name)
  os.makedirs(folder, exist_ok=True)
  return os.path.join(folder, _LOG_FILE)


@contextlib.contextmanager
def _output_into(log: TextIO) -> Iterator[TextIO]:
  """Sends what this process and its children print into a file, and yields the terminal."""
  sys.stdout.flush()
  sys.stderr.flush()
  kept = os.dup(1), os.dup(2)
  with os.fdopen(os.dup(kept[1]), "w", encoding="utf-8") as terminal:
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    try:
      yield terminal
    finally:
      for stream, number, saved in zip((sys.stdout, sys.stderr), (1, 2), kept):
        _flush(stream, number)
        os.dup2(saved, number)
        os.close(saved)


def _flush(stream: TextIO, number: int) -> None:
  """Writes what a stream still holds. If the log's disk is full, this goes nowhere, and not to the terminal later."""
  try:
    stream.flush()
  except OSError:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
      os.dup2(nowhere.fileno(), number)
      stream.flush()
