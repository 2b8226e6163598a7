"""The demo's two runs: MaxText's own pre-training as a child process, resumed where it was interrupted, never repeated.

One folder per run holds its checkpoints, `metrics.jsonl`, `train.log` and `demo.json`, which says what it is made of.
A run whose recipe or corpus has changed since starts anew.
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

from maxtext_sparse.config import ConfigError, parse_keys
from maxtext_sparse.errors import RunError
from maxtext_sparse.local.corpus import Corpus, refuse_foreign
from maxtext_sparse.local.process import child_environment, TrainingProcess
from maxtext_sparse.runs.files import replace_json
from maxtext_sparse.runs.metrics import latest_rows, Row
from maxtext_sparse.schedule import build_schedule, Schedule

# Below this the schedule's phases and the eval points run into each other.
SMALLEST_STEPS = 20
_STATE = "demo.json"
_POLL_SECONDS = 0.25


@dataclasses.dataclass(frozen=True)
class RunSpec:
  """One run: its name, its folder, and the keys that make it what it is."""

  name: str
  title: str
  directory: str
  steps: int
  overrides: tuple[str, ...]
  fingerprint: str

  @property
  def metrics_file(self) -> str:
    return os.path.join(self.directory, "metrics.jsonl")

  @property
  def log_file(self) -> str:
    return os.path.join(self.directory, "train.log")

  @property
  def is_finished(self) -> bool:
    """Whether the run's last checkpoint and last eval are there. MaxText would refuse to start such a run again."""
    return self.is_current and self.has_last_checkpoint and _has_final_eval(self)

  @property
  def is_current(self) -> bool:
    """Whether what the folder holds was made by this recipe from this corpus."""
    return _read_state(self).get("fingerprint") == self.fingerprint

  @property
  def has_last_checkpoint(self) -> bool:
    return os.path.isdir(os.path.join(self.directory, "checkpoints", str(self.steps - 1)))

  @property
  def seconds(self) -> float:
    """Wall time spent on the run so far, all attempts together."""
    return _read_state(self).get("seconds", 0.0)


@dataclasses.dataclass(frozen=True)
class Intervals:
  """Steps between pruning events, evals and checkpoints, derived from the run's length."""

  pruning: int
  evaluation: int
  checkpoint: int


def intervals(steps: int) -> Intervals:
  """About 25 pruning events, 6 evals and 10 checkpoints.

  No checkpoint at the last step before its eval: a run killed between the two would have nothing left to do on resume.
  The one that MaxText writes on completion comes after the eval.
  """
  checkpoint = max(2, steps // 10)
  while (steps - 1) % checkpoint == 0:
    checkpoint += 1
  return Intervals(max(1, steps // 60), max(1, steps // 6), checkpoint)


def sparse_schedule(steps: int, sparsity: float) -> Schedule:
  """The sparse run's events.

  Raises:
    ConfigError: these steps and this sparsity do not make a sparse run.
  """
  if steps < SMALLEST_STEPS:
    raise ConfigError(f"steps={steps}: the demo needs at least {SMALLEST_STEPS}")
  if sparsity == 0:
    raise ConfigError("sparsity=0: the demo compares with a dense run anyway, give something between 0 and 1")
  keys = {"sparsity": sparsity, "gmp_pruning_frequency": intervals(steps).pruning}
  return build_schedule(parse_keys(keys), steps)


def plan_runs(directory: str, corpus: Corpus, steps: int, sparsity: float) -> tuple[RunSpec, RunSpec]:
  """The dense and the sparse run: same recipe, seed and data, in folders below `directory`."""
  every = intervals(steps)
  common = (f"steps={steps}", f"eval_interval={every.evaluation}", f"checkpoint_period={every.checkpoint}")
  sparse = (f"sparsity={sparsity}", f"gmp_pruning_frequency={every.pruning}")
  percent = f"{100 * sparsity:g}"
  return (
    _spec(directory, f"dense_{steps}", "dense", steps, common, corpus),
    _spec(directory, f"sparse{percent}_{steps}", f"sparse {percent} %", steps, common + sparse, corpus),
  )


def recipe_file() -> str:
  """Path of the recipe, a MaxText config."""
  return str(importlib.resources.files("maxtext_sparse.demo") / "demo.yml")


def train(spec: RunSpec, corpus: Corpus, cache: str, report: Callable[[Row, Row], None]) -> None:
  """Trains a run to its end, from its last checkpoint where there is one.

  Args:
    spec: the run.
    corpus: its data.
    cache: folder for jax's compilation cache, shared by the runs and by their resumes.
    report: called a few times a second with the latest train row and eval row, empty before the first.

  Raises:
    RunError: the child failed.
  """
  _prepare(spec)
  before, start = spec.seconds, time.monotonic()
  environment = child_environment(os.environ, num_cpu_devices=1)
  try:
    with TrainingProcess(_arguments(spec, corpus, cache), spec.log_file, environment) as process:
      _follow(process, spec, report)
  finally:
    _write_state(spec, before + time.monotonic() - start)
  if process.poll() != 0 or not spec.is_finished:
    hint = "; the same command goes on from the last checkpoint" if (process.poll() or 0) < 0 else ""
    raise RunError(f"{spec.title} run failed: {process.why_failed()}{hint}; log: {spec.log_file}")


def _follow(process: TrainingProcess, spec: RunSpec, report: Callable[[Row, Row], None]) -> None:
  """Reports the latest rows until the child ends."""
  start = time.time()
  is_over = False
  while not is_over:
    is_over = process.wait(_POLL_SECONDS) is not None
    report(*_rows_since(spec.metrics_file, start))


def _spec(directory: str, name: str, title: str, steps: int, overrides: Sequence[str], corpus: Corpus) -> RunSpec:
  with open(recipe_file(), encoding="utf-8") as file:
    made_of = [file.read(), list(overrides), corpus.fingerprint]
  fingerprint = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
  return RunSpec(name, title, os.path.join(directory, name), steps, tuple(overrides), fingerprint)


def _prepare(spec: RunSpec) -> None:
  """Makes the run's folder; one of another recipe, or without the metrics of its checkpoint, is removed before."""
  refuse_foreign(spec.directory, _STATE)
  is_without_metrics = spec.has_last_checkpoint and not _has_final_eval(spec)
  if os.path.isdir(spec.directory) and (not spec.is_current or is_without_metrics):
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
    # MaxText takes these two for patterns.
    f"grain_train_files={glob.escape(corpus.train_file)}",
    f"grain_eval_files={glob.escape(corpus.eval_file)}",
    f"tokenizer_path={corpus.vocabulary_file}",
    *spec.overrides,
  ]


def _rows_since(path: str, start: float) -> tuple[Row, Row]:
  """The latest rows if this attempt wrote any; a resumed run's file holds the earlier attempt's until then."""
  try:
    return latest_rows(path) if os.path.getmtime(path) >= start else ({}, {})
  except FileNotFoundError:
    return {}, {}


def _has_final_eval(spec: RunSpec) -> bool:
  train_row, eval_row = latest_rows(spec.metrics_file)
  return train_row.get("step") == spec.steps - 1 == eval_row.get("step")


def _read_state(spec: RunSpec) -> dict[str, Any]:
  try:
    with open(os.path.join(spec.directory, _STATE), encoding="utf-8") as file:
      return json.load(file)
  except (OSError, ValueError):
    return {}


def _write_state(spec: RunSpec, seconds: float) -> None:
  state = {"fingerprint": spec.fingerprint, "seconds": round(seconds, 1)}
  replace_json(os.path.join(spec.directory, _STATE), state)
