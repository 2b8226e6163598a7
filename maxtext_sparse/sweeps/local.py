"""`sweep run`: the runs of a folder as processes of this machine, a few at a time, again and again until all are done."""

from collections.abc import Sequence
import dataclasses
import fnmatch
import os
import shutil
import time
from typing import Any

from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.local.corpus import build_corpus, CorpusSettings
from maxtext_sparse.runs.files import folder_lock
from maxtext_sparse.sweeps.branch import branch
from maxtext_sparse.sweeps.display import Display
from maxtext_sparse.sweeps.manifest import Manifest, read_manifest, Run
from maxtext_sparse.sweeps.state import (
  checkpoint_steps,
  has_final_eval,
  is_finished,
  is_local,
  Progress,
  progress,
  read_notes,
  write_notes,
)
from maxtext_sparse.sweeps.training import RunProcess

_POLL_SECONDS = 0.5


@dataclasses.dataclass
class Sweep:
  """The runs that one call of `sweep run` is responsible for, and what became of them so far."""

  manifest: Manifest
  pending: list[Run]
  failed: dict[str, str] = dataclasses.field(default_factory=dict)

  def next_ready(self) -> Run | None:
    """The first run whose trunk is done; taken from the list."""
    for run in self.pending:
      trunk = run.trunk and self.manifest.find(run.trunk)
      if not trunk or is_finished(self.manifest, trunk):
        self.pending.remove(run)
        return run
    return None

  def fail(self, run: Run, reason: str) -> list[Run]:
    """Notes a failure; returns the branches that cannot run without it."""
    self.failed[run.name] = reason
    blocked = [other for other in self.pending if other.trunk == run.name]
    self.pending = [other for other in self.pending if other.trunk != run.name]
    self.failed |= {other.name: f"its trunk {run.name} failed" for other in blocked}
    return blocked


def run_sweep(directory: str, jobs: int, only: str | None, console: Any) -> dict[str, Progress]:
  """Trains every run that is not finished, each from its last checkpoint.

  Args:
    directory: the sweep's folder.
    jobs: how many processes at a time; each gets its share of the CPU cores.
    only: glob over run names; their trunks come along.
    console: rich console for the display.

  Returns:
    name -> how the run stands now, for the runs asked for.

  Raises:
    ConfigError: not a folder to train here, or another `sweep run` is at work there.
  """
  manifest = read_manifest(directory)
  if not is_local(manifest.output_directory):
    raise ConfigError(
      f"output_directory={manifest.output_directory}: sweep run trains into a folder of this machine, use sweep submit"
    )
  chosen = choose(manifest, only)
  with folder_lock(directory, f"{directory}: another sweep run is at work there, wait for it"):
    _make_corpus(manifest, console)
    sweep = Sweep(manifest, [run for run in chosen if not is_finished(manifest, run)])
    with Display(console, manifest, chosen) as display:
      _work(sweep, jobs, display)
  notes = read_notes(directory)
  return {run.name: progress(manifest, run, notes, False) for run in chosen}


def choose(manifest: Manifest, only: str | None) -> list[Run]:
  """The runs whose names match, with the trunks that they branch from, in the sweep's order.

  Raises:
    ConfigError: none matches.
  """
  names = {run.name for run in manifest.runs if fnmatch.fnmatchcase(run.name, only or "*")}
  if not names:
    raise ConfigError(f"--only={only}: matches none of the {len(manifest.runs)} runs, such as {manifest.runs[-1].name}")
  names |= {run.trunk for run in manifest.runs if run.name in names and run.trunk}
  return [run for run in manifest.runs if run.name in names]


def _work(sweep: Sweep, jobs: int, display: Display) -> None:
  """Keeps every slot busy until nothing is left to start."""
  slots: dict[int, RunProcess] = {}
  cores = _core_shares(jobs)
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
  """What became of a child that ended."""
  child.end()
  if child.poll() == 0 and is_finished(sweep.manifest, child.run):
    display.finished(child.run)
  else:
    _report(sweep, child.run, child.why_failed(), child.log_file, display)


def _report(sweep: Sweep, run: Run, reason: str, log_file: str, display: Display) -> None:
  blocked = sweep.fail(run, reason)
  display.failed(run, reason, log_file)
  for other in blocked:
    display.failed(other, f"its trunk {run.name} failed", "")


def _prepare(manifest: Manifest, run: Run) -> None:
  """Branches a run; one killed between its last checkpoint and the eval after it goes back to the one before."""
  last = str(run.steps - 1)
  if run.kind == "run" and run.steps - 1 in checkpoint_steps(manifest, run) and not has_final_eval(manifest, run):
    shutil.rmtree(os.path.join(manifest.run_directory(run), "checkpoints", last))
  branch(manifest, run)
  os.makedirs(manifest.run_directory(run), exist_ok=True)


def _make_corpus(manifest: Manifest, console: Any) -> None:
  """Builds the sweep's text once: it must stay the same for all runs."""
  sizes = manifest.spec.get("corpus")
  directory = os.path.join(os.path.abspath(manifest.directory), "corpus")
  if sizes is None or os.path.isdir(directory):
    return
  corpus = build_corpus(directory, settings=CorpusSettings(**sizes))
  console.print(f"corpus: {corpus.train_chars:,} characters to train on, {corpus.eval_chars:,} held out", highlight=False)


def _core_shares(jobs: int) -> list[Sequence[int] | None]:
  """Disjoint CPU cores for each job: two jobs with a thread each get more done than two that fight for two cores."""
  if jobs == 1 or not hasattr(os, "sched_getaffinity"):
    return [None] * jobs
  cores = sorted(os.sched_getaffinity(0))
  if len(cores) < jobs:
    return [None] * jobs
  size = len(cores) // jobs
  return [cores[slot * size : (slot + 1) * size] for slot in range(jobs)]


def _write_notes(sweep: Sweep, slots: dict[int, RunProcess]) -> None:
  running = {child.run.name: {"state": "running"} for child in slots.values()}
  failed = {name: {"state": "failed", "reason": reason} for name, reason in sweep.failed.items()}
  notes = running | failed
  if notes != read_notes(sweep.manifest.directory):
    write_notes(sweep.manifest.directory, notes)
