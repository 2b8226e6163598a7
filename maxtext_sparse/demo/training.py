"""Trains the demo's runs in child processes, each from its last checkpoint if it was interrupted.

Each run has a folder with its checkpoints, `metrics.jsonl`, `train.log` and `demo.json`. The last holds a fingerprint of
the recipe and the corpus. A run whose recipe or corpus has changed starts again from nothing.
"""

from collections.abc import Callable, Sequence
import dataclasses
import glob
import hashlib
import importlib.resources
import json
import os
import shutil
import time
from typing import Any

from maxtext_sparse.config import parse_keys
from maxtext_sparse.config_files import read_config
from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.local.corpus import Corpus, refuse_foreign
from maxtext_sparse.local.process import child_environment, core_shares, num_cores, TrainingProcess
from maxtext_sparse.local.progress import Reporter
from maxtext_sparse.plan.twins import Twin
from maxtext_sparse.runs.files import replace_json
from maxtext_sparse.runs.metrics import latest_rows, Row
from maxtext_sparse.schedule import build_schedule, Schedule

# A shorter run has no room for its events, evaluations and checkpoints.
SMALLEST_STEPS = 20
_STATE = "demo.json"
_POLL_SECONDS = 0.25


@dataclasses.dataclass(frozen=True)
class RunSpec:
  """One run.

  Attributes:
    name: MaxText's `run_name` and the name of the run's folder.
    title: what the demo calls the run.
    directory: its folder.
    steps: its number of steps.
    overrides: `key=value` for the keys that are not in the recipe.
    fingerprint: changes with the recipe, the overrides and the corpus.
  """

  name: str
  title: str
  directory: str
  steps: int
  overrides: tuple[str, ...]
  fingerprint: str

  @property
  def metrics_file(self) -> str:
    """Path of its metrics."""
    return os.path.join(self.directory, "metrics.jsonl")

  @property
  def log_file(self) -> str:
    """Path of what its process printed."""
    return os.path.join(self.directory, "train.log")

  @property
  def is_finished(self) -> bool:
    """Whether the run's last checkpoint and last evaluation are there, made by this recipe from this corpus."""
    return self.is_current and self.has_last_checkpoint and _has_final_eval(self)

  @property
  def is_current(self) -> bool:
    """Whether this recipe and this corpus made what the folder holds."""
    return _read_state(self).get("fingerprint") == self.fingerprint

  @property
  def has_last_checkpoint(self) -> bool:
    """Whether the checkpoint of the last step is there."""
    return os.path.isdir(os.path.join(self.directory, "checkpoints", str(self.steps - 1)))

  @property
  def seconds(self) -> float:
    """Wall time of all attempts to train the run so far."""
    return float(_read_state(self).get("seconds", 0.0))


@dataclasses.dataclass(frozen=True)
class Runs:
  """The demo's runs: dense, sparse, and the dense twin of the sparse run or its two neighbours."""

  dense: RunSpec
  sparse: RunSpec
  neighbours: tuple[RunSpec, ...]

  @property
  def all(self) -> tuple[RunSpec, ...]:
    """In the order in which they train."""
    return (self.dense, self.sparse, *self.neighbours)


@dataclasses.dataclass(frozen=True)
class Intervals:
  """Numbers of steps between pruning events, evaluations and checkpoints."""

  pruning: int
  evaluation: int
  checkpoint: int


def intervals(steps: int) -> Intervals:
  """The intervals of a run: about 50 to 60 pruning events, 6 evaluations and 10 checkpoints.

  No checkpoint interval divides the last step. MaxText would write that checkpoint before the last evaluation, and a run
  that is killed between the two would find nothing left to do when it is started again. The checkpoint that MaxText
  writes when a run is complete comes after the evaluation.
  """
  checkpoint = max(2, steps // 10)
  while (steps - 1) % checkpoint == 0:
    checkpoint += 1
  return Intervals(max(1, steps // 125), max(1, steps // 6), checkpoint)


def sparse_schedule(steps: int, sparsity: float) -> Schedule:
  """The pruning events of the sparse run.

  Raises:
    ConfigError: the run is too short, or the sparsity is not between 0 and 1.
  """
  if steps < SMALLEST_STEPS:
    raise ConfigError(f"steps={steps}: the demo needs at least {SMALLEST_STEPS}")
  if sparsity == 0:
    raise ConfigError("sparsity=0: the demo compares with dense runs anyway, give something between 0 and 1")
  keys = {"sparsity": sparsity, "gmp_pruning_frequency": intervals(steps).pruning}
  return build_schedule(parse_keys(keys), steps)


def plan_runs(directory: str, corpus: Corpus, steps: int, sparsity: float, twin: Twin) -> Runs:
  """All runs, in folders below `directory`. They have the same recipe, seed and data."""
  every = intervals(steps)
  common = (f"steps={steps}", f"eval_interval={every.evaluation}", f"checkpoint_period={every.checkpoint}")
  pruned = (f"sparsity={sparsity}", f"gmp_pruning_frequency={every.pruning}")
  percent = f"{100 * sparsity:g}"

  def spec(name: str, title: str, overrides: tuple[str, ...] = ()) -> RunSpec:
    return _spec(directory, f"{name}_{steps}", title, steps, common + overrides, corpus)

  return Runs(
    spec("dense", "dense"),
    spec(f"sparse{percent}", f"sparse {percent} %", pruned),
    tuple(
      spec(f"twin{neighbour.num_prunable}", f"twin of {neighbour.num_prunable:,}", neighbour.overrides)
      for neighbour in twin.neighbours
    ),
  )


def recipe_file() -> str:
  """Path of the recipe, a MaxText config."""
  return str(importlib.resources.files("maxtext_sparse.demo") / "demo.yml")


def tokens_per_step() -> int:
  """Number of tokens in a batch of the recipe, which trains on one device."""
  recipe = read_config(recipe_file())
  return int(recipe["per_device_batch_size"] * recipe["max_target_length"])


def vocab_size() -> int:
  """Number of tokens in the recipe's vocabulary."""
  return int(read_config(recipe_file())["vocab_size"])


def train_all(specs: Sequence[RunSpec], corpus: Corpus, cache: str, show: Callable[[str, int], Reporter]) -> None:
  """Trains runs to their ends, each from its last checkpoint if it has one, as many at a time as there are CPU cores.

  Args:
    specs: the runs, in the order in which they start.
    corpus: their data.
    cache: folder for jax's compilation cache, which all runs and attempts share.
    show: takes the title and the number of steps of a run that starts, and returns its reporter.

  Raises:
    RunError: a child process failed. The others are ended; their checkpoints stay.
  """
  waiting = list(specs)
  jobs = min(len(specs), num_cores())
  cores = core_shares(jobs)
  slots: dict[int, tuple[_Attempt, Reporter]] = {}
  try:
    while waiting or slots:
      for slot in range(jobs):
        if waiting and slot not in slots:
          spec = waiting.pop(0)
          slots[slot] = _Attempt(spec, corpus, cache, cores[slot]), show(spec.title, spec.steps)
      time.sleep(_POLL_SECONDS)
      for slot, (attempt, report) in list(slots.items()):
        is_over = attempt.poll() is not None
        report(*attempt.latest_rows())
        if is_over:
          del slots[slot]
          attempt.finish()
  finally:
    for attempt, _ in slots.values():
      attempt.end()


class _Attempt(TrainingProcess):
  """The child process that trains a run from its last checkpoint."""

  def __init__(self, spec: RunSpec, corpus: Corpus, cache: str, cores: Sequence[int] | None):
    _prepare(spec)
    self._spec, self._seconds_before = spec, spec.seconds
    self._start, self._clock = time.time(), time.monotonic()
    environment = child_environment(os.environ, num_cpu_devices=1)
    super().__init__(_arguments(spec, corpus, cache), spec.log_file, environment, cores=cores)

  def latest_rows(self) -> tuple[Row, Row]:
    """The latest train row and eval row, empty as long as the file holds only those of an earlier attempt."""
    path = self._spec.metrics_file
    try:
      return latest_rows(path) if os.path.getmtime(path) >= self._start else ({}, {})
    except FileNotFoundError:
      return {}, {}

  def end(self) -> None:
    """Stops the child and notes the time that it took."""
    super().end()
    _write_state(self._spec, self._seconds_before + time.monotonic() - self._clock)

  def finish(self) -> None:
    """Ends an attempt whose child has ended.

    Raises:
      RunError: the child failed.
    """
    self.end()
    status, title = self.poll() or 0, self._spec.title
    if status != 0 or not self._spec.is_finished:
      hint = "; the same command goes on from the last checkpoint" if status < 0 else ""
      raise RunError(f"{title} run failed: {self.why_failed()}{hint}; log: {self._spec.log_file}")


def _spec(directory: str, name: str, title: str, steps: int, overrides: Sequence[str], corpus: Corpus) -> RunSpec:
  with open(recipe_file(), encoding="utf-8") as file:
    made_of = [file.read(), list(overrides), corpus.fingerprint]
  fingerprint = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
  return RunSpec(name, title, os.path.join(directory, name), steps, tuple(overrides), fingerprint)


def _prepare(spec: RunSpec) -> None:
  """Makes the run's folder. If another recipe made it, or its last evaluation is missing, it is emptied first."""
  refuse_foreign(spec.directory, _STATE)
  # MaxText does not evaluate a run that it finds complete.
  is_without_eval = spec.has_last_checkpoint and not _has_final_eval(spec)
  if os.path.isdir(spec.directory) and (not spec.is_current or is_without_eval):
    shutil.rmtree(spec.directory)
  os.makedirs(spec.directory, exist_ok=True)
  _write_state(spec, spec.seconds)


def _arguments(spec: RunSpec, corpus: Corpus, cache: str) -> list[str]:
  return [
    recipe_file(),
    f"run_name={spec.name}",
    f"base_output_directory={os.path.dirname(spec.directory)}",
    f"metrics_file={spec.metrics_file}",
    f"jax_cache_dir={cache}",
    # MaxText reads these two as glob patterns.
    f"grain_train_files={glob.escape(corpus.train_file)}",
    f"grain_eval_files={glob.escape(corpus.eval_file)}",
    f"tokenizer_path={corpus.vocabulary_file}",
    *spec.overrides,
  ]


def _has_final_eval(spec: RunSpec) -> bool:
  train_row, eval_row = latest_rows(spec.metrics_file)
  return train_row.get("step") == spec.steps - 1 == eval_row.get("step")


def _read_state(spec: RunSpec) -> dict[str, Any]:
  try:
    with open(os.path.join(spec.directory, _STATE), encoding="utf-8") as file:
      state = json.load(file)
  except (OSError, ValueError):
    return {}
  return state if isinstance(state, dict) else {}


def _write_state(spec: RunSpec, seconds: float) -> None:
  state = {"fingerprint": spec.fingerprint, "seconds": round(seconds, 1)}
  replace_json(os.path.join(spec.directory, _STATE), state)
