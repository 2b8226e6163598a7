"""What the demo shows while it works: a bar per run in a terminal, a line now and then anywhere else."""

from collections.abc import Iterator
import contextlib
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

# Lines per run where there is no terminal.
_NUM_LINES = 10


class Reporter(Protocol):
  """Told a few times a second how far a run is."""

  def __call__(self, train_row: dict[str, Any], eval_row: dict[str, Any]) -> None: ...


@contextlib.contextmanager
def run_progress(console: Console, title: str, steps: int) -> Iterator[Reporter]:
  """Shows one run's progress for the duration of a with block."""
  if not console.is_terminal:
    yield _Lines(console, title, steps)
    return
  columns = (
    TextColumn("{task.description}"),
    # Takes what room is left.
    BarColumn(bar_width=None),
    TextColumn("step {task.completed}/{task.total}"),
    TextColumn("{task.fields[figures]}"),
    TimeRemainingColumn(),
  )
  with Progress(*columns, console=console, expand=True) as progress:
    yield _Bar(progress, title, steps)


def print_line(console: Console, text: str) -> None:
  """One line, however long: paths and log lines are no use when broken."""
  console.print(text, highlight=False, markup=False, soft_wrap=True)


def figures(train_row: dict[str, Any], eval_row: dict[str, Any]) -> str:
  """Loss, density and eval loss in the latest rows; a dense run has no density."""
  parts = []
  if train_row:
    parts.append(f"loss {train_row['learning/loss']:.3f}")
    parts.append(f"density {train_row.get('pruning/density', 1.0):.3f}")
  if eval_row:
    parts.append(f"eval {eval_row['eval/avg_loss']:.3f}")
  return ", ".join(parts) or "starting MaxText"


def num_done(train_row: dict[str, Any]) -> int:
  """Finished steps, the rows count from 0."""
  return int(train_row["step"]) + 1 if train_row else 0


class _Bar:
  def __init__(self, progress: Progress, title: str, steps: int):
    self._progress = progress
    self._task = progress.add_task(title, total=steps, figures=figures({}, {}))

  def __call__(self, train_row: dict[str, Any], eval_row: dict[str, Any]) -> None:
    self._progress.update(self._task, completed=num_done(train_row), figures=figures(train_row, eval_row))


class _Lines:
  def __init__(self, console: Console, title: str, steps: int):
    self._console, self._title, self._steps = console, title, steps
    self._shown = 0
    self._print(figures({}, {}))

  def __call__(self, train_row: dict[str, Any], eval_row: dict[str, Any]) -> None:
    done = num_done(train_row)
    share = done * _NUM_LINES // self._steps
    if share > self._shown:
      self._shown = share
      self._print(f"step {done}/{self._steps}, {figures(train_row, eval_row)}")

  def _print(self, text: str) -> None:
    print_line(self._console, f"{self._title}: {text}")
