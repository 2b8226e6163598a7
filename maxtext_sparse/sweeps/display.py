"""What `sweep run` shows: bars in a terminal, a line now and then anywhere else."""

from collections.abc import Sequence
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from maxtext_sparse.local.progress import figures, num_done, print_line
from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.state import is_finished, latest

# Lines per run where there is no terminal, beside those of its start and end.
_NUM_LINES = 4


class Display:
  """Runs and steps done, and loss and density of those at work."""

  def __init__(self, console: Console, manifest: Manifest, runs: Sequence[Run]):
    self._console, self._manifest, self._runs = console, manifest, runs
    done = [run for run in runs if is_finished(manifest, run)]
    self._num_finished, self._num_failed = len(done), 0
    self._total = sum(run.num_own_steps for run in runs)
    self._steps_done = sum(run.num_own_steps for run in done)
    self._shown: dict[str, int] = {}
    self._bars: dict[str, TaskID] = {}
    self._start, self._at_start = time.monotonic(), -1
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[text]}"))
    self._progress = Progress(*columns, console=console, expand=True) if console.is_terminal else None

  def __enter__(self) -> Self:
    if self._num_finished:
      self._say(f"{self._num_finished} of {len(self._runs)} runs are finished")
    if self._progress:
      self._progress.start()
      self._bars[""] = self._progress.add_task("all runs", total=self._total, text="")
    return self

  def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
    if self._progress:
      self._progress.stop()

  def started(self, run: Run) -> None:
    if self._progress:
      self._bars[run.name] = self._progress.add_task(run.name, total=run.steps, text="starting MaxText")
    else:
      self._say(f"{run.name}: started")

  def finished(self, run: Run) -> None:
    train, evaluated = latest(self._manifest, run)
    self._num_finished += 1
    self._steps_done += run.num_own_steps
    self._drop(run)
    left = f", {self._time_left([])} left" if self._steps_done < self._total else ""
    self._say(f"{run.name}: done, {figures(train, evaluated)} ({self._num_finished}/{len(self._runs)} runs{left})")

  def failed(self, run: Run, reason: str, log_file: str) -> None:
    self._num_failed += 1
    self._drop(run)
    self._say(f"{run.name}: failed: {reason}" + (f"; log: {log_file}" if log_file else ""))

  def update(self, running: Sequence[Run]) -> None:
    """Called a few times a second with the runs at work."""
    if self._at_start < 0:
      self._at_start = self._num_steps(running)
    for run in running:
      train, evaluated = latest(self._manifest, run)
      self._show(run, num_done(train), figures(train, evaluated) if train else "starting MaxText")
    if self._progress:
      text = f"{self._num_finished}/{len(self._runs)} runs, {self._num_failed} failed, {self._time_left(running)} left"
      self._progress.update(self._bars[""], completed=self._num_steps(running), text=text)

  def _show(self, run: Run, done: int, text: str) -> None:
    if self._progress:
      self._progress.update(self._bars[run.name], completed=done, text=f"step {done}/{run.steps}, {text}")
      return
    quarter = done * _NUM_LINES // run.steps
    is_first = run.name not in self._shown
    if not is_first and self._shown[run.name] < quarter < _NUM_LINES:
      self._say(f"{run.name}: step {done}/{run.steps}, {text}")
    self._shown[run.name] = quarter

  def _num_steps(self, running: Sequence[Run]) -> int:
    """Steps done by finished runs and by those at work; a trunk's count once."""
    own = lambda run: num_done(latest(self._manifest, run)[0]) - (run.steps - run.num_own_steps)
    return self._steps_done + sum(max(0, own(run)) for run in running)

  def _time_left(self, running: Sequence[Run]) -> str:
    """From the steps a second of this call so far."""
    done = self._num_steps(running)
    rate = (done - self._at_start) / max(1e-9, time.monotonic() - self._start)
    if rate <= 0:
      return "unknown time"
    minutes = round((self._total - done) / rate / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"

  def _drop(self, run: Run) -> None:
    if self._progress and run.name in self._bars:
      self._progress.remove_task(self._bars.pop(run.name))

  def _say(self, line: str) -> None:
    print_line(self._progress.console if self._progress else self._console, line)
