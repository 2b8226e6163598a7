"""What `sweep run` shows while it works: bars in a terminal, a line now and then anywhere else."""

from collections.abc import Collection, Sequence
import contextlib
import math
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.local.progress import figures, num_done
from maxtext_sparse.runs.metrics import Row
from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.state import is_local, latest
from maxtext_sparse.terminal import say

# Time between two looks at a bucket. The files of this machine are looked at whenever somebody asks.
_SECONDS_BETWEEN_LOOKS = 10.0
# If there is no terminal, a run gets a line when it starts, when it ends, and after each quarter between.
_NUM_QUARTERS = 4


class Display:
  """Shows the number of finished runs and steps, and the loss and density of the runs that are training.

  Use it in a with block.
  """

  def __init__(self, console: Console, manifest: Manifest, runs: Sequence[Run], finished: Collection[str]):
    """Makes a display of some runs of a sweep, and counts those of the names in `finished` as done."""
    self._console, self._manifest, self._runs = console, manifest, runs
    done = [run for run in runs if run.name in finished]
    self._num_finished, self._num_failed = len(done), 0
    self._total = sum(run.num_own_steps for run in runs)
    self._steps_done = sum(run.num_own_steps for run in done)
    # Run -> quarters of it that were shown.
    self._quarters: dict[str, int] = {}
    # Run -> its bar. The bar of all runs has the name "".
    self._bars: dict[str, TaskID] = {}
    # Steps that earlier calls had done are known with the first update.
    self._start, self._num_at_start = time.monotonic(), -1
    # Run -> when its folder was looked at, and the rows that were found there.
    self._looks: dict[str, tuple[float, tuple[Row, Row]]] = {}
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
    """Shows that a run's process was started."""
    if self._progress:
      self._bars[run.name] = self._progress.add_task(run.name, total=run.steps, text="starting MaxText")
    else:
      self._say(f"{run.name}: started")

  def finished(self, run: Run) -> None:
    """Shows the final figures of a run."""
    self._looks.pop(run.name, None)
    train, evaluated = self._latest(run)
    self._num_finished += 1
    self._steps_done += run.num_own_steps
    self._drop(run)
    left = f", {self._time_left([])} left" if self._steps_done < self._total else ""
    self._say(f"{run.name}: done, {figures(train, evaluated)} ({self._num_finished}/{len(self._runs)} runs{left})")

  def failed(self, run: Run, reason: str, log_file: str) -> None:
    """Shows why a run failed; `log_file` is "" for a run that was not started."""
    self._num_failed += 1
    self._drop(run)
    self._say(f"{run.name}: failed: {reason}" + (f"; log: {log_file}" if log_file else ""))

  def update(self, running: Sequence[Run]) -> None:
    """Shows the latest figures. It is called a few times a second with the runs that are training."""
    if self._num_at_start < 0:
      self._num_at_start = self._num_steps(running)
    for run in running:
      train, evaluated = self._latest(run)
      self._show(run, num_done(train), figures(train, evaluated) if train else "starting MaxText")
    if self._progress:
      text = f"{self._num_finished}/{len(self._runs)} runs, {self._num_failed} failed, {self._time_left(running)} left"
      self._progress.update(self._bars[""], completed=self._num_steps(running), text=text)

  def _show(self, run: Run, done: int, text: str) -> None:
    if self._progress:
      self._progress.update(self._bars[run.name], completed=done, text=f"step {done}/{run.steps}, {text}")
      return
    quarter = done * _NUM_QUARTERS // run.steps
    is_first = run.name not in self._quarters
    if not is_first and self._quarters[run.name] < quarter < _NUM_QUARTERS:
      self._say(f"{run.name}: step {done}/{run.steps}, {text}")
    self._quarters[run.name] = quarter

  def _num_steps(self, running: Sequence[Run]) -> int:
    """Number of steps that finished runs and those in training have done. The steps of a trunk count once."""
    return self._steps_done + sum(max(0, self._num_own_done(run)) for run in running)

  def _num_own_done(self, run: Run) -> int:
    num_of_trunk = run.steps - run.num_own_steps
    return num_done(self._latest(run)[0]) - num_of_trunk

  def _latest(self, run: Run) -> tuple[Row, Row]:
    """The latest rows of a run. Those of a bucket may be a few seconds old."""
    if is_local(self._manifest.output_path):
      return latest(self._manifest, run)
    time_of_look, rows = self._looks.get(run.name, (-math.inf, ({}, {})))
    if time.monotonic() - time_of_look > _SECONDS_BETWEEN_LOOKS:
      # A bucket that is away for a moment does not end the training, which tries for longer than this.
      with contextlib.suppress(ConfigError):
        rows = latest(self._manifest, run)
      self._looks[run.name] = (time.monotonic(), rows)
    return rows

  def _time_left(self, running: Sequence[Run]) -> str:
    """The time that the remaining steps take at the average speed since this call began."""
    done = self._num_steps(running)
    rate = (done - self._num_at_start) / max(1e-9, time.monotonic() - self._start)
    if rate <= 0:
      return "unknown time"
    minutes = round((self._total - done) / rate / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"

  def _drop(self, run: Run) -> None:
    if self._progress and run.name in self._bars:
      self._progress.remove_task(self._bars.pop(run.name))

  def _say(self, line: str) -> None:
    say(self._progress.console if self._progress else self._console, line)
