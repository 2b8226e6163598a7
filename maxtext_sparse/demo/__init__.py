"""The main job on real text, offline, on a laptop CPU: a dense and a sparse MaxText run, compared.

Everything is kept in one folder: `corpus/`, `runs/`, `jax_cache/`, and the results `result.json` and `demo.png`. What is
finished there is used again, what was interrupted goes on from its last checkpoint. This process imports neither jax nor
MaxText; the runs are child processes.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import importlib.util
import os
import shutil
import sys
from typing import Any

from rich.console import Console

from maxtext_sparse.config import ConfigError
from maxtext_sparse.demo import results as figures
from maxtext_sparse.demo import training
from maxtext_sparse.hooks import maxtext_version
from maxtext_sparse.local.corpus import build_corpus, Corpus
from maxtext_sparse.local.progress import print_line, run_progress
from maxtext_sparse.runs.files import folder_lock, replace_json

DEFAULT_STEPS = 600
# Corpus, checkpoints of two runs while they are replaced, and compiled programs, with room to spare.
NEEDED_BYTES = 300_000_000
_NEEDED_MODULES = ("pyarrow", "sentencepiece", "matplotlib")
_INTERRUPTED_STATUS = 130


def run_demo(out: str, *, steps: int | None = None, sparsity: float = 0.8, as_json: bool = False) -> dict[str, Any]:
  """Builds the corpus, trains a dense and a sparse model on it, shows the comparison and returns it.

  Args:
    out: folder for everything; made if need be, reused by the next call.
    steps: length of each run, the recipe's own if None.
    sparsity: final fraction of prunable weights removed.
    as_json: print nothing on stdout, progress goes to stderr; the caller prints the result.

  Raises:
    ConfigError: bad arguments, no room, or a folder that cannot be written.
    HookError: there is no MaxText.
    RunError: a run failed.
  """
  steps = DEFAULT_STEPS if steps is None else steps
  schedule = training.sparse_schedule(steps, sparsity)
  version = maxtext_version()
  _check_modules()
  out = os.path.abspath(os.path.expanduser(out))
  console = Console(stderr=as_json)
  with _failures_in_one_line(out), _own_folder(out):
    corpus, specs = _train_all(out, steps, sparsity, console)
    results, curves = figures.read_results(*specs, schedule)
    titles = dict(zip(results, (spec.title for spec in specs)))
    plot = os.path.join(out, "demo.png")
    figures.draw(plot, curves, titles)
    result = _as_dict(out, plot, steps, sparsity, version, corpus, results)
    replace_json(os.path.join(out, "result.json"), result)
  figures.print_table(console, results, titles)
  print_line(console, f"curves: {plot}")
  return result


def _train_all(
  out: str, steps: int, sparsity: float, console: Console
) -> tuple[Corpus, tuple[training.RunSpec, training.RunSpec]]:
  corpus_directory = os.path.join(out, "corpus")
  if not os.path.isdir(corpus_directory):
    _check_room(out)
  corpus = build_corpus(corpus_directory)
  if not corpus.is_reused:
    print_line(console, f"corpus: {corpus.train_chars:,} characters to train on, {corpus.eval_chars:,} held out")
  specs = training.plan_runs(os.path.join(out, "runs"), corpus, steps, sparsity)
  for spec in specs:
    if spec.is_finished:
      print_line(console, f"{spec.title}: finished before, {spec.directory}")
      continue
    _check_room(out)
    with run_progress(console, spec.title, steps) as reporter:
      training.train(spec, corpus, os.path.join(out, "jax_cache"), reporter)
  return corpus, specs


@contextlib.contextmanager
def _failures_in_one_line(out: str) -> Iterator[None]:
  """Ctrl-C says how to go on; a full or broken disk is the user's to mend."""
  try:
    yield
  except KeyboardInterrupt:
    print(f"\ninterrupted; the same command goes on from the last checkpoint in {out}", file=sys.stderr)
    raise SystemExit(_INTERRUPTED_STATUS) from None
  except OSError as error:
    raise ConfigError(f"--out={out}: {error.strerror or error}: {error.filename or 'disk'}") from error


@contextlib.contextmanager
def _own_folder(out: str) -> Iterator[None]:
  """Makes the folder and keeps other demos out of it; the system drops the lock however this process ends."""
  lock = contextlib.ExitStack()
  try:
    os.makedirs(out, exist_ok=True)
    lock.enter_context(
      folder_lock(out, f"--out={out}: another demo is at work there, wait for it or choose another folder")
    )
  except OSError as error:
    raise ConfigError(f"--out={out}: cannot write there ({error.strerror}), choose another folder") from error
  with lock:
    yield


def _check_room(out: str) -> None:
  free = shutil.disk_usage(out).free
  if free < NEEDED_BYTES:
    raise ConfigError(
      f"--out={out}: {free // 10**6} MB free on that disk, the demo needs {NEEDED_BYTES // 10**6} MB; "
      "free some or choose another folder"
    )


def _check_modules() -> None:
  for name in _NEEDED_MODULES:
    if importlib.util.find_spec(name) is None:
      raise ConfigError(f"{name}: not installed here, the demo needs it: pip install 'maxtext-sparse[maxtext,analysis]'")


def _as_dict(
  out: str, plot: str, steps: int, sparsity: float, version: str, corpus: Corpus, results: dict[str, figures.RunResult]
) -> dict[str, Any]:
  return {
    "out": out,
    "plot": plot,
    "maxtext_version": version,
    "steps": steps,
    "sparsity": sparsity,
    "train_chars": corpus.train_chars,
    "eval_chars": corpus.eval_chars,
    "runs": {name: dataclasses.asdict(result) for name, result in results.items()},
  }
