"""The demo's two runs: MaxText's own pre-training as a child process, resumed where it was interrupted, never repeated.

One folder per run holds its checkpoints, `metrics.jsonl`, `train.log` and `demo.json`, which says what it is made of.
A run whose recipe or corpus has changed since starts anew.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import glob
import hashlib
import importlib.resources
import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any

from maxtext_sparse.config import ConfigError, parse_keys
from maxtext_sparse.demo.corpus import Corpus, refuse_foreign
from maxtext_sparse.schedule import build_schedule, Schedule

# Below this the schedule's phases and the eval points run into each other.
SMALLEST_STEPS = 20
_STATE = "demo.json"
_POLL_SECONDS = 0.25
# Time for a child to end by itself before it is killed.
_GRACE_SECONDS = 5.0
# Reading the end of the metrics file is enough to know how far a run is.
_TAIL_BYTES = 32_768

Row = dict[str, Any]


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
  log_start = os.path.getsize(spec.log_file) if os.path.exists(spec.log_file) else 0
  try:
    status = _run_child(_arguments(spec, corpus, cache), spec, report)
  finally:
    _write_state(spec, before + time.monotonic() - start)
  if status != 0 or not spec.is_finished:
    _fail(spec, status, log_start)


def read_rows(path: str) -> tuple[list[Row], list[Row]]:
  """Train rows and eval rows of a metrics file, in order; a torn last line is left out."""
  with open(path, "rb") as file:
    return _split_rows(file.read().splitlines(keepends=True))


def latest_rows(path: str) -> tuple[Row, Row]:
  """The last train row and the last eval row near the end of a metrics file, empty where there is none."""
  try:
    with open(path, "rb") as file:
      start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
      file.seek(start)
      lines = file.read().splitlines(keepends=True)
  except FileNotFoundError:
    return {}, {}
  train_rows, eval_rows = _split_rows(lines[1:] if start else lines)
  return (train_rows or [{}])[-1], (eval_rows or [{}])[-1]


def last_meaningful_line(text: str) -> str:
  """The line of a log that says what went wrong: our own error, an exception's last line, else the last line."""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  ours = [line for line in lines if line.startswith("maxtext-sparse: error: ")]
  if ours:
    return _shortened(ours[-1].removeprefix("maxtext-sparse: error: "))
  # An exception's line names its class before the first colon: no spaces, and not one of absl's log lines.
  raised = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception", "Interrupt"))]
  return _shortened((raised or lines or ["the log is empty"])[-1])


def _shortened(line: str, limit: int = 300) -> str:
  """MaxText prints whole configs in one line."""
  return line if len(line) <= limit else f"{line[:limit]}..."


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


def _child_environment(environment: Mapping[str, str]) -> dict[str, str]:
  """One CPU device, no network, and no key of the recipe changed from outside."""
  kept = {name: value for name, value in environment.items() if not name.startswith("M_") and name != "XLA_FLAGS"}
  return kept | {
    "JAX_PLATFORMS": "cpu",
    # Without the cloud clients MaxText starts seconds sooner.
    "DECOUPLE_GCLOUD": "TRUE",
    "HF_HUB_OFFLINE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONUNBUFFERED": "1",
  }


def _run_child(arguments: Sequence[str], spec: RunSpec, report: Callable[[Row, Row], None]) -> int:
  """Runs the child to its end and returns its exit status; it does not outlive this call, however that ends."""
  start = time.time()
  command = [sys.executable, "-m", "maxtext_sparse.demo.child", *arguments]
  with open(spec.log_file, "ab") as log:
    child = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=log,
      stderr=subprocess.STDOUT,
      env=_child_environment(os.environ),
      # Ctrl-C in the terminal reaches the parent alone, which then ends the child.
      start_new_session=True,
    )
  try:
    while True:
      with contextlib.suppress(subprocess.TimeoutExpired):
        status = child.wait(_POLL_SECONDS)
        report(*_rows_since(spec.metrics_file, start))
        return status
      report(*_rows_since(spec.metrics_file, start))
  finally:
    _end(child)


def _rows_since(path: str, start: float) -> tuple[Row, Row]:
  """The latest rows if this attempt wrote any; a resumed run's file holds the earlier attempt's until then."""
  try:
    return latest_rows(path) if os.path.getmtime(path) >= start else ({}, {})
  except FileNotFoundError:
    return {}, {}


def _end(child: subprocess.Popen) -> None:
  if child.poll() is None:
    child.terminate()
    try:
      child.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
      child.kill()
      child.wait()
  assert child.stdin is not None
  child.stdin.close()


def _fail(spec: RunSpec, status: int, log_start: int) -> None:
  from maxtext_sparse.monitor import RunError  # imports jax, which a demo that works need not

  with open(spec.log_file, encoding="utf-8", errors="replace") as file:
    file.seek(log_start)
    line = last_meaningful_line(file.read())
  if status == 0:
    why = f"ended before its last step: {line}"
  elif status < 0:
    why = f"was killed by signal {-status}; the same command goes on from the last checkpoint"
  else:
    why = f"failed: {line}"
  raise RunError(f"{spec.title} run {why}; log: {spec.log_file}")


def _has_final_eval(spec: RunSpec) -> bool:
  train_row, eval_row = latest_rows(spec.metrics_file)
  return train_row.get("step") == spec.steps - 1 == eval_row.get("step")


def _split_rows(lines: Sequence[bytes]) -> tuple[list[Row], list[Row]]:
  rows = []
  for line in lines:
    with contextlib.suppress(ValueError):
      rows.append(json.loads(line))
  return [row for row in rows if "learning/loss" in row], [row for row in rows if "eval/avg_loss" in row]


def _read_state(spec: RunSpec) -> dict[str, Any]:
  try:
    with open(os.path.join(spec.directory, _STATE), encoding="utf-8") as file:
      return json.load(file)
  except (OSError, ValueError):
    return {}


def _write_state(spec: RunSpec, seconds: float) -> None:
  state = {"fingerprint": spec.fingerprint, "seconds": round(seconds, 1)}
  path = os.path.join(spec.directory, _STATE)
  with open(f"{path}.tmp", "w", encoding="utf-8") as file:
    json.dump(state, file, indent=1)
  os.replace(f"{path}.tmp", path)
