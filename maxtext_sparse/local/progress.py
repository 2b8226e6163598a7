"""Shows how far runs in child processes are: a bar in a terminal, a line now and then anywhere else."""

from collections.abc import Callable, Iterator
import contextlib
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from maxtext_sparse.runs.metrics import Row
from maxtext_sparse.terminal import say

# Number of lines for each run if there is no terminal.
_NUM_LINES = 10
# Columns of the shortest bar, of the time that is left, and of the gaps.
_LEAST_BAR = 4 + 7 + 4


class Reporter(Protocol):
  """Is called a few times a second with the latest train row and eval row of a run, which may be empty."""

  def __call__(self, train_row: Row, eval_row: Row) -> None: ...


@contextlib.contextmanager
def runs_progress(console: Console) -> Iterator[Callable[[str, int], Reporter]]:
  """Shows the progress of runs while the with block is open.

  Yields:
    A function that takes the title of a run and its number of steps, and returns the run's reporter.
  """
  if not console.is_terminal:
    yield lambda title, steps: _Lines(console, title, steps)
    return
  title = _TitleColumn()
  # The numbers are whole in any case. The bar fills the rest of the line, and a long title is cut.
  columns = (
    title,
    BarColumn(bar_width=None),
    TextColumn("step {task.completed}/{task.total}"),
    TextColumn("{task.fields[figures]}"),
    TimeRemainingColumn(table_column=Column(no_wrap=True)),
  )
  # What others print may belong into a log, so rich must not put it above the bars.
  title.progress = Progress(*columns, console=console, expand=True, redirect_stdout=False, redirect_stderr=False)
  with title.progress as progress:
    try:
      yield lambda title, steps: _Bar(progress, title, steps)
    finally:
      # "starting MaxText" must not be the last word on a run that has ended.
      for task in progress.tasks:
        if task.completed == 0:
          progress.remove_task(task.id)


def figures(train_row: dict[str, Any], eval_row: dict[str, Any]) -> str:
  """Loss, density and evaluation loss from the latest rows. The rows of a dense run have no density."""
  parts = []
  if train_row:
    parts.append(f"loss {train_row['learning/loss']:.3f}")
  if "pruning/density" in train_row:
    parts.append(f"density {train_row['pruning/density']:.3f}")
  if eval_row:
    parts.append(f"eval {eval_row['eval/avg_loss']:.3f}")
  return ", ".join(parts) or "starting MaxText"


def num_done(train_row: dict[str, Any]) -> int:
  """Number of finished steps. The rows count steps from 0."""
  return int(train_row["step"]) + 1 if train_row else 0


class _TitleColumn(ProgressColumn):
  """A title, cut to what the numbers of all runs leave of the line."""

  progress: Progress

  def __init__(self) -> None:
    super().__init__(Column(no_wrap=True))

  def render(self, task: Task) -> Text:
    """Returns the title."""
    tasks = self.progress.tasks
    steps = max(len(f"step {other.completed}/{other.total}") for other in tasks)
    longest = max(len(other.fields["figures"]) for other in tasks)
    text = Text(task.description)
    text.truncate(max(1, self.progress.console.width - steps - longest - _LEAST_BAR), overflow="ellipsis")
    return text


class _Bar:
  """A progress bar in a terminal."""

  def __init__(self, progress: Progress, title: str, steps: int):
    self._progress = progress
    self._task = progress.add_task(title, total=steps, figures=figures({}, {}))

  def __call__(self, train_row: Row, eval_row: Row) -> None:
    self._progress.update(self._task, completed=num_done(train_row), figures=figures(train_row, eval_row))


class _Lines:
  """A line at the start and after each tenth of the run."""

  def __init__(self, console: Console, title: str, steps: int):
    self._console, self._title, self._steps = console, title, steps
    self._num_shown = 0
    self._print(figures({}, {}))

  def __call__(self, train_row: Row, eval_row: Row) -> None:
    done = num_done(train_row)
    tenths = done * _NUM_LINES // self._steps
    if tenths > self._num_shown:
      self._num_shown = tenths
      self._print(f"step {done}/{self._steps}, {figures(train_row, eval_row)}")

  def _print(self, text: str) -> None:
    say(self._console, f"{self._title}: {text}")
