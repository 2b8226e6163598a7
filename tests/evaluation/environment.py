"""An interpreter with lm-evaluation-harness for tests of the command `evaluate`: this one, or that of .venv-eval."""

import importlib.util
import os
from pathlib import Path
import sys

import pytest

REPO = Path(__file__).parents[2]


def harness_python() -> str:
  """Path of the interpreter; skips the test where there is none. CI must have it."""
  if importlib.util.find_spec("lm_eval") is not None:
    return sys.executable
  python = REPO / ".venv-eval" / "bin" / "python"
  if not python.exists():
    if os.environ.get("CI"):
      pytest.fail("no .venv-eval, which .ci/evaluation builds")
    pytest.skip("lm-evaluation-harness is not installed; bash .ci/evaluation installs it")
  return str(python)
