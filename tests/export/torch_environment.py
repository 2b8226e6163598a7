"""An interpreter with torch and transformers, for tests that ask transformers itself: found, or built once.

torch may have no build for the interpreter that runs the tests, so it lives in an environment of its own.
"""

import functools
import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

REQUIREMENTS = ("torch>=2.6", "transformers>=5.9,<6", "ml_dtypes>=0.4")
VARIABLE = "MAXTEXT_SPARSE_TORCH_PYTHON"
FOLDER = Path(__file__).parents[2] / ".torch_environment"
_CHECK = "import torch, transformers; assert int(transformers.__version__.split('.')[0]) >= 5"
# In the order of likelihood that there is a torch for it.
_INTERPRETERS = ("python3.11", "python3.12", "python3.13", "python3.10")


@functools.cache
def torch_python() -> str:
  """Path of the interpreter; skips the test, with the reason, where none is to be had."""
  for python in (os.environ.get(VARIABLE), sys.executable, str(FOLDER / "bin" / "python")):
    if python and _has_torch(python):
      return python
  reasons = []
  for name in _INTERPRETERS:
    for python in _found(name):
      reason = _build(python)
      if reason is None:
        return str(FOLDER / "bin" / "python")
      reasons.append(f"{python}: {reason}")
  pytest.skip(f"no interpreter with torch and transformers ({VARIABLE} names one); tried {'; '.join(reasons) or 'none'}")


def run(script: str, *arguments: object) -> str:
  """Runs a script with transformers, offline, and returns what it prints."""
  process = subprocess.run(
    [torch_python(), "-c", script, *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
    env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": ""},
  )
  assert process.returncode == 0, process.stderr[-3000:]
  return process.stdout


def _has_torch(python: str) -> bool:
  if not os.path.isfile(python):
    return False
  return subprocess.run([python, "-c", _CHECK], capture_output=True, check=False).returncode == 0


def _found(name: str) -> list[str]:
  """The interpreter on the path, and those that pyenv keeps beside it."""
  versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
  kept = sorted(versions.glob(f"{name.removeprefix('python')}.*/bin/python")) if versions.is_dir() else []
  on_path = shutil.which(name)
  return [*map(str, kept), *([on_path] if on_path else [])][:1]


def _build(python: str) -> str | None:
  """Builds the environment; the last line of the error if that fails."""
  shutil.rmtree(FOLDER, ignore_errors=True)
  for command in (
    [python, "-m", "venv", FOLDER],
    [FOLDER / "bin" / "python", "-m", "pip", "install", "-q", *REQUIREMENTS],
  ):
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
      lines = [line for line in (process.stderr or process.stdout).splitlines() if line.strip()]
      shutil.rmtree(FOLDER, ignore_errors=True)
      return lines[-1] if lines else f"exit status {process.returncode}"
  return None
