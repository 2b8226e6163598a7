"""`doctor` on the command line: at 80 columns, and without touching an accelerator."""

import json
import os
from pathlib import Path
import subprocess
import sys

REPO = Path(__file__).parents[2]
# Says at the end of the process whether jax has opened a backend, which would take hold of a TPU.
WATCHED = """
import atexit, sys
from maxtext_sparse.cli import main
opened = lambda: sys.modules["jax._src.xla_bridge"]._backends
atexit.register(lambda: print("opened", sorted(opened()), file=sys.stderr))
main()
"""


def doctor(*words):
  # On this platform jax fails as soon as it looks for a device.
  variables = os.environ | {"JAX_PLATFORMS": "tpu", "COLUMNS": "80", "PYTHONPATH": str(REPO)}
  command = [sys.executable, "-c", WATCHED, "doctor", *words]
  return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)


def test_doctor_wraps_at_80_columns_and_opens_no_device():
  done = doctor()
  assert done.returncode == 0, done.stderr[-2000:]
  assert max(map(len, done.stdout.splitlines())) <= 80
  assert done.stdout.rstrip().endswith("Training works.")
  assert done.stderr.splitlines()[-1] == "opened []"


def test_doctor_prints_one_json_object():
  done = doctor("--json")
  report = json.loads(done.stdout)
  assert done.returncode == 0 and done.stdout.count("\n") == 1
  assert report["works"] and report["devices"] and all(hook["signature_as_expected"] for hook in report["hooks"])
