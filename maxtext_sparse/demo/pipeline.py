"""The demo from end to end: makes the corpus, trains a dense model, a sparse one and its dense twin, and compares them.

One folder holds everything: `corpus/`, `runs/`, `jax_cache/`, and the results `result.json`, `demo.png` and `demo.svg`.
The next call uses again what is finished there, and goes on with an interrupted run from its last checkpoint. This
process imports neither jax nor MaxText; the runs are child processes.
"""

from collections.abc import Iterator
import contextlib
import importlib.util
import os
import shutil
import sys
from typing import Any

from rich.console import Console

from maxtext_sparse.demo import text, training
from maxtext_sparse.demo.results import read_results, RunResult
from maxtext_sparse.demo.twin import find_twin
from maxtext_sparse.errors import ConfigError, print_aside
from maxtext_sparse.hooks import maxtext_version
from maxtext_sparse.local.corpus import build_corpus, Corpus, CorpusSettings
from maxtext_sparse.local.progress import runs_progress
from maxtext_sparse.plan.twins import Twin
from maxtext_sparse.runs.files import folder_lock, LOCK_FILE, replace_json
from maxtext_sparse.terminal import say

DEFAULT_STEPS = 500
# At this size, sparser runs end far above their twins (`configs/README.md`).
DEFAULT_SPARSITY = 0.4
# Room for the corpus, the checkpoints of four runs while they are replaced, and the compiled programs.
NEEDED_BYTES = 300_000_000
_NEEDED_MODULES = ("pyarrow", "sentencepiece", "matplotlib", "pandas")
_CORPUS, _RUNS, _CACHE, _RESULT, _FIGURE = "corpus", "runs", "jax_cache", "result.json", "demo"
# All that a demo's folder holds. Hidden files are ignored; the lock and half-made corpora are among them.
_OWN_FILES = frozenset({_CORPUS, _RUNS, _CACHE, _RESULT, f"{_FIGURE}.png", f"{_FIGURE}.svg", LOCK_FILE})
_INTERRUPTED_STATUS = 130


def run_demo(
  out: str, *, steps: int | None = None, sparsity: float = DEFAULT_SPARSITY, as_json: bool = False
) -> dict[str, Any]:
  """Makes the corpus, trains a dense and a sparse model and the dense twin on it, prints the comparison and returns it.

  Args:
    out: folder for everything. It is made if it is missing, and the next call uses it again.
    steps: number of steps of each run, `DEFAULT_STEPS` if None.
    sparsity: final fraction of the prunable weights that the sparse run removes.
    as_json: print progress on stderr and nothing on stdout, because the caller prints the result.

  Raises:
    ConfigError: an argument is wrong, the disk is full, or the folder cannot be written or is not a demo's.
    HookError: MaxText is not installed.
    RunError: a run failed.
  """
  steps = DEFAULT_STEPS if steps is None else steps
  schedule = training.sparse_schedule(steps, sparsity)
  version = maxtext_version()
  _check_modules()
  out = os.path.abspath(os.path.expanduser(out))
  console = Console(stderr=as_json)
  with _failures_in_one_line(out), _own_folder(out):
    shape, twin = find_twin(training.recipe_file(), schedule, steps, sparsity)
    corpus, runs = _train_all(out, steps, sparsity, twin, console)
    results, curves = read_results(runs, schedule, shape, twin)
    titles = dict(zip(results, (runs.dense.title, runs.sparse.title, "dense twin"), strict=True))
    # matplotlib is loaded only now.
    from maxtext_sparse.plots.demo import save_demo

    figure = save_demo(os.path.join(out, _FIGURE), curves, titles)
    result = _to_dict(out, figure, steps, sparsity, version, corpus, results) | {
      "neighbours": twin.to_dict()["neighbours"]
    }
    replace_json(os.path.join(out, _RESULT), result)
  text.print_comparison(console, results, titles, twin, steps)
  say(console, f"curves: {figure}")
  return result


def _train_all(out: str, steps: int, sparsity: float, twin: Twin, console: Console) -> tuple[Corpus, training.Runs]:
  """Makes the corpus and trains all runs, as far as they are not finished."""
  corpus_directory = os.path.join(out, _CORPUS)
  if not os.path.isdir(corpus_directory):
    _check_room(out)
  corpus = build_corpus(corpus_directory, settings=CorpusSettings(vocab_size=training.vocab_size()))
  text.print_data(console, corpus, steps)
  runs = training.plan_runs(os.path.join(out, _RUNS), corpus, steps, sparsity, twin)
  for spec in runs.all:
    if spec.is_finished:
      say(console, f"{spec.title}: finished before, {spec.directory}")
  unfinished = [spec for spec in runs.all if not spec.is_finished]
  if unfinished:
    _check_room(out)
    with runs_progress(console) as show:
      training.train_all(unfinished, corpus, os.path.join(out, _CACHE), show)
  return corpus, runs


@contextlib.contextmanager
def _failures_in_one_line(out: str) -> Iterator[None]:
  """After Ctrl-C, says how to go on and exits. Turns errors of the disk, such as a full one, into a ConfigError."""
  try:
    yield
  except KeyboardInterrupt:
    print(file=sys.stderr)  # the terminal shows ^C at the end of a line
    print_aside(f"interrupted; the same command goes on from the last checkpoint in {out}")
    raise SystemExit(_INTERRUPTED_STATUS) from None
  except OSError as error:
    raise ConfigError(f"--out={out}: {error.strerror or error}: {error.filename or 'disk'}") from error


@contextlib.contextmanager
def _own_folder(out: str) -> Iterator[None]:
  """Makes the folder, refuses one that is not a demo's, and keeps other demos out of it during the with block."""
  lock = contextlib.ExitStack()
  try:
    os.makedirs(out, exist_ok=True)
    _refuse_foreign_folder(out)
    lock.enter_context(
      folder_lock(out, f"--out={out}: another demo is at work there, wait for it or choose another folder")
    )
  except OSError as error:
    raise ConfigError(f"--out={out}: cannot write there ({error.strerror}), choose another folder") from error
  with lock:
    yield


def _refuse_foreign_folder(out: str) -> None:
  foreign = sorted(name for name in os.listdir(out) if name not in _OWN_FILES and not name.startswith("."))
  if foreign:
    raise ConfigError(f"--out={out}: has files that are not the demo's, such as {foreign[0]}; choose another folder")


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


def _to_dict(
  out: str, figure: str, steps: int, sparsity: float, version: str, corpus: Corpus, results: dict[str, RunResult]
) -> dict[str, Any]:
  """What `--json` prints and result.json holds."""
  return {
    "out": out,
    "plot": figure,
    "maxtext_version": version,
    "steps": steps,
    "tokens": steps * training.tokens_per_step(),
    "sparsity": sparsity,
    "data": text.data_source(),
    "train_chars": corpus.train_chars,
    "eval_chars": corpus.eval_chars,
    "runs": {name: result.to_dict() for name, result in results.items()},
    "sparse_minus_twin": results["sparse"].eval_loss - results["twin"].eval_loss,
    "times_smaller_than_twin": results["twin"].final_params / results["sparse"].final_params,
  }
