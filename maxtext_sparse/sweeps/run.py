"""`sweep run`: trains the runs of a sweep's folder in child processes of this machine, a few at a time."""

from collections.abc import Sequence
import dataclasses
import fnmatch
import os
import time

from rich.console import Console

from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.local.corpus import build_corpus, CorpusSettings
from maxtext_sparse.local.process import core_shares
from maxtext_sparse.runs.files import folder_lock
from maxtext_sparse.sweeps.branch import branch, drop_checkpoint
from maxtext_sparse.sweeps.display import Display
from maxtext_sparse.sweeps.manifest import Manifest, read_manifest, Run
from maxtext_sparse.sweeps.state import (
  all_statuses,
  as_of_now,
  for_each,
  has_final_eval,
  has_last_checkpoint,
  is_finished,
  is_local,
  read_notes,
  RunStatus,
  write_notes,
)
from maxtext_sparse.sweeps.training import RunProcess
from maxtext_sparse.terminal import say

_POLL_SECONDS = 0.5


@dataclasses.dataclass
class Sweep:
  """The runs that one call of `sweep run` has still to train, and those that failed.

  Attributes:
    manifest: the sweep.
    pending: runs that are not started yet, in the sweep's order.
    done: names of the runs that are finished.
    failed: name of a run -> why it failed.
  """

  manifest: Manifest
  pending: list[Run]
  done: set[str] = dataclasses.field(default_factory=set)
  failed: dict[str, str] = dataclasses.field(default_factory=dict)

  def next_ready(self) -> Run | None:
    """Takes the first run whose trunk is finished from `pending`. None if there is no such run now."""
    for run in self.pending:
      if run.trunk is None or run.trunk in self.done:
        self.pending.remove(run)
        return run
    return None

  def fail(self, run: Run, reason: str) -> list[Run]:
    """Notes that a run failed. Returns its branches, which can no longer be trained and fail with it."""
    self.failed[run.name] = reason
    blocked = [other for other in self.pending if other.trunk == run.name]
    self.pending = [other for other in self.pending if other.trunk != run.name]
    self.failed |= {other.name: f"its trunk {run.name} failed" for other in blocked}
    return blocked


def run_sweep(directory: str, jobs: int, only: str | None, console: Console) -> dict[str, RunStatus]:
  """Trains every run that is not finished, each from its last checkpoint. A run that fails does not stop the others.

  Args:
    directory: the sweep's folder.
    jobs: largest number of processes at a time; each gets its share of the CPU cores.
    only: glob over the names of the runs to train; their trunks are trained too. None stands for all runs.
    console: where progress is shown.

  Returns:
    name -> where the run stands at the end, for the chosen runs and their trunks.

  Raises:
    ConfigError: no name matches `only`, another `sweep run` is at work in the folder, or the bucket cannot be read.
  """
  manifest = read_manifest(directory)
  chosen = choose(manifest, only)
  with folder_lock(directory, f"{directory}: another sweep run is at work there, wait for it"):
    _make_corpus(manifest, console)
    done = _finished(manifest, chosen)
    sweep = Sweep(manifest, [run for run in chosen if run.name not in done], done)
    with Display(console, manifest, chosen, done) as display:
      _work(sweep, jobs, display)
  return {run.name: status for run, status in all_statuses(manifest, chosen, is_active=False)}


def choose(manifest: Manifest, only: str | None) -> list[Run]:
  """The runs whose names match the glob `only`, and the trunks that these start from, in the sweep's order.

  Raises:
    ConfigError: no name matches.
  """
  names = {run.name for run in manifest.runs if fnmatch.fnmatchcase(run.name, only or "*")}
  if not names:
    raise ConfigError(f"--only={only}: matches none of the {len(manifest.runs)} runs, such as {manifest.runs[-1].name}")
  names |= {run.trunk for run in manifest.runs if run.name in names and run.trunk}
  return [run for run in manifest.runs if run.name in names]


def _finished(manifest: Manifest, runs: Sequence[Run]) -> set[str]:
  """Names of the runs that are finished now."""
  now = as_of_now(manifest)
  finished = for_each(now, lambda run: is_finished(now, run), runs)
  return {run.name for run, is_done in zip(runs, finished, strict=True) if is_done}


def _work(sweep: Sweep, jobs: int, display: Display) -> None:
  """Starts a run in every free slot until no run is left. Ends all processes if it is interrupted."""
  slots: dict[int, RunProcess] = {}
  cores = core_shares(jobs)
  try:
    while True:
      for slot in [slot for slot, child in slots.items() if child.poll() is not None]:
        _settle(sweep, slots.pop(slot), display)
      for slot in range(jobs):
        if slot not in slots and (run := sweep.next_ready()):
          _start(sweep, run, slot, slots, cores, display)
      _write_notes(sweep, slots)
      display.update([child.run for child in slots.values()])
      if not slots and not sweep.pending:
        return
      time.sleep(_POLL_SECONDS)
  finally:
    for child in slots.values():
      child.end()
    _write_notes(sweep, {})


def _start(
  sweep: Sweep, run: Run, slot: int, slots: dict[int, RunProcess], cores: Sequence[Sequence[int] | None], display: Display
) -> None:
  try:
    _prepare(sweep.manifest, run)
    slots[slot] = RunProcess(sweep.manifest, run, cores[slot])
    display.started(run)
  except (ConfigError, RunError, OSError) as error:
    _report(sweep, run, str(error), "", display)


def _settle(sweep: Sweep, child: RunProcess, display: Display) -> None:
  """Notes whether the run of a process that has ended is finished or failed."""
  child.end()
  if child.poll() == 0 and is_finished(sweep.manifest, child.run):
    sweep.done.add(child.run.name)
    display.finished(child.run)
  else:
    _report(sweep, child.run, child.why_failed(), child.log_file, display)


def _report(sweep: Sweep, run: Run, reason: str, log_file: str, display: Display) -> None:
  blocked = sweep.fail(run, reason)
  display.failed(run, reason, log_file)
  for other in blocked:
    display.failed(other, f"its trunk {run.name} failed", "")


def _prepare(manifest: Manifest, run: Run) -> None:
  """Makes a run's folder ready: removes a last checkpoint without evaluation, and copies the trunk's checkpoint.

  MaxText does not evaluate a run that it finds complete. A run that was killed between its last checkpoint and the
  evaluation after it therefore has to go on from an earlier checkpoint.
  """
  if run.kind == "run" and has_last_checkpoint(manifest, run) and not has_final_eval(manifest, run):
    drop_checkpoint(manifest, run, run.steps - 1)
  branch(manifest, run)
  if is_local(manifest.output_path):
    os.makedirs(manifest.run_directory(run), exist_ok=True)


def _make_corpus(manifest: Manifest, console: Console) -> None:
  """Builds the sweep's text unless it is there. It is never rebuilt, because all runs must train on the same text."""
  sizes = manifest.spec.get("corpus")
  directory = os.path.join(os.path.abspath(manifest.directory), "corpus")
  if sizes is None or os.path.isdir(directory):
    return
  corpus = build_corpus(directory, settings=CorpusSettings(**sizes))
  say(console, f"corpus: {corpus.train_chars:,} characters to train on, {corpus.eval_chars:,} held out")


def _write_notes(sweep: Sweep, slots: dict[int, RunProcess]) -> None:
  running = {child.run.name: {"state": "running"} for child in slots.values()}
  failed = {name: {"state": "failed", "reason": reason} for name, reason in sweep.failed.items()}
  notes = running | failed
  if notes != read_notes(sweep.manifest.directory):
    write_notes(sweep.manifest.directory, notes)
