"""Runs lm-evaluation-harness on model folders and collects one table of results with standard errors."""

from collections.abc import Iterator, Sequence
import contextlib
import glob
import importlib.util
import logging
import math
import os
import sys
import tempfile
from typing import Any

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.evaluation import local_tasks
from maxtext_sparse.inspection.hub import local_folder
from maxtext_sparse.weights.folder import CONFIG_FILE, read_json, STEMS

BACKENDS = ("auto", "torch", "numpy")
_INSTALL = "pip install 'maxtext-sparse[eval]'"
# What the harness's own model imports: its extra `hf`.
_OF_TORCH = ("torch", "transformers", "accelerate", "peft")
Results = dict[str, dict[str, dict[str, float]]]


def evaluate(
  folders: Sequence[str],
  tasks: Sequence[str],
  *,
  text: str | None = None,
  task_folder: str | None = None,
  backend: str = "auto",
  limit: int | None = None,
  num_fewshot: int | None = None,
  batch_size: int = 16,
) -> Results:
  """Evaluates each folder on each task.

  Args:
    folders: model folders, or names on the Hugging Face Hub.
    tasks: the harness's names, or `next_line` and `held_out`.
    text: documents for the local tasks; the demo's held-out text if None.
    task_folder: folder with more task files of the harness.
    backend: `torch` for the harness's own `hf` model, `numpy` for ours, `auto` for torch where it is installed.
    limit: most documents per task.
    num_fewshot: examples before each question; the task's own number if None.
    batch_size: sequences computed at once.

  Returns:
    {folder: {task: {metric: value}}}; the standard error of a metric is called METRIC_stderr.

  Raises:
    ConfigError: the harness is not installed, an unknown task, or a folder that cannot be loaded.
  """
  if importlib.util.find_spec("lm_eval") is None:
    raise ConfigError(f"lm_eval: not installed here, evaluation needs it: {_INSTALL}")
  if backend not in BACKENDS:
    raise ConfigError(f"--backend={backend}: must be {', '.join(BACKENDS)}")
  # Before anything that takes long.
  located = {path: _locate(path, backend) for path in folders}
  if task_folder and not os.path.isdir(task_folder):
    raise ConfigError(f"--task-folder={task_folder}: no such folder")
  results: Results = {}
  with tempfile.TemporaryDirectory(prefix="maxtext_sparse_tasks_") as folder, _quiet():
    manager = _task_manager(folder, tasks, text, task_folder)
    for path, (model_folder, is_numpy) in located.items():
      model = _model(model_folder, is_numpy, batch_size)
      results[path] = _evaluate_one(model, list(tasks), manager, limit, num_fewshot, batch_size)
  return results


def _evaluate_one(
  model: Any, tasks: list[str], manager: Any, limit: int | None, num_fewshot: int | None, batch_size: int
) -> dict[str, dict[str, float]]:
  from lm_eval import simple_evaluate

  found = simple_evaluate(
    model=model, tasks=tasks, task_manager=manager, limit=limit, num_fewshot=num_fewshot, batch_size=batch_size
  )
  assert found is not None, "only other processes of a distributed run get no result"
  samples = found.get("samples", {})
  return {task: _metrics(values) | _bits_error(samples.get(task, ())) for task, values in found["results"].items()}


def _metrics(values: dict[str, Any]) -> dict[str, float]:
  """The harness's `acc,none` and `acc_stderr,none` without the filter where it is none; what is no number is left out."""
  numbers = {key: value for key, value in values.items() if isinstance(value, int | float) and "," in key}
  return {key.removesuffix(",none"): float(value) for key, value in numbers.items() if not math.isnan(value)}


def _bits_error(samples: Sequence[dict[str, Any]]) -> dict[str, float]:
  """Standard error of bits per byte, which the harness has none of: of a ratio of sums, linearised.

  With log-likelihood l_i and bytes b_i of document i, r = sum l / sum b, the error is
  sqrt(n / (n - 1) x sum (l_i - r b_i)^2) / sum b, in bits after division by log 2.
  """
  pairs = [sample["bits_per_byte"] for sample in samples if "bits_per_byte" in sample]
  num_bytes = sum(size for _, size in pairs)
  if len(pairs) < 2 or not num_bytes:
    return {}
  ratio = sum(score for score, _ in pairs) / num_bytes
  squares = sum((score - ratio * size) ** 2 for score, size in pairs)
  return {"bits_per_byte_stderr": math.sqrt(len(pairs) / (len(pairs) - 1) * squares) / num_bytes / math.log(2)}


def _task_manager(folder: str, tasks: Sequence[str], text: str | None, task_folder: str | None) -> Any:
  from lm_eval.tasks import TaskManager

  if any(task in local_tasks.NAMES for task in tasks):
    local_tasks.write_tasks(folder, local_tasks.read_documents(text))
  paths = [folder, *([task_folder] if task_folder else [])]
  manager = TaskManager(include_path=paths, include_defaults=False)
  # Reading the harness's own thousands of task files takes long, and local tasks need none of them.
  if not set(tasks) <= set(manager.all_tasks):
    manager = TaskManager(include_path=paths)
  known = set(manager.all_tasks)
  for task in tasks:
    if task not in known:
      raise ConfigError(f"--tasks={task}: the harness has no such task, see `lm_eval ls tasks`")
  return manager


def _locate(path: str, backend: str) -> tuple[str, bool]:
  """The model's folder on this machine, and whether numpy computes it.

  Raises:
    ConfigError: there is no such model, or the backend cannot compute it.
  """
  missing = [name for name in _OF_TORCH if importlib.util.find_spec(name) is None]
  if backend == "torch" and missing:
    raise ConfigError(
      f"--backend=torch: {missing[0]} is missing here: pip install 'lm_eval[hf]'; small models run with --backend numpy"
    )
  folder = local_folder(path)
  if not read_json(os.path.join(folder, CONFIG_FILE)):
    raise ConfigError(f"{path}: has no {CONFIG_FILE}, not a model folder")
  is_bitmask = bool(glob.glob(os.path.join(glob.escape(folder), f"{STEMS['bitmask']}*.safetensors")))
  if backend == "torch" and is_bitmask:
    raise ConfigError(f"--backend=torch: transformers reads no bitmask, export {path} with --format dense")
  return folder, backend == "numpy" or bool(missing) or is_bitmask


def _model(folder: str, is_numpy: bool, batch_size: int) -> Any:
  if is_numpy:
    from maxtext_sparse.evaluation.numpy_lm import NumpyLM

    return NumpyLM(folder, batch_size)
  from lm_eval.models.huggingface import HFLM
  import torch

  # The harness would take a GPU even where there is none.
  device = "cuda" if torch.cuda.is_available() else "cpu"
  # The text begins with the token for its beginning, as in training.
  return HFLM(pretrained=folder, device=device, batch_size=batch_size, add_bos_token=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps the harness's logs and bars off stdout."""
  disabled = logging.root.manager.disable
  logging.disable(logging.WARNING)
  os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
  try:
    with contextlib.redirect_stdout(sys.stderr):
      yield
  finally:
    logging.disable(disabled)
