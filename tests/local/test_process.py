"""Child processes: they end with their parent, see no keys from outside, and say in one line why they failed."""

import os
import subprocess
import sys
import time

import pytest

from maxtext_sparse.local.process import child_environment, last_meaningful_line, TrainingProcess


@pytest.mark.parametrize(
  ("log", "line"),
  [
    ("noise\nmaxtext-sparse: error: sparsity=2: too much\nmore", "sparsity=2: too much"),
    ("I1122 10:00:00 a.py:1] ok\nTraceback\n  File x\nValueError: no: data\nI1122 10:00:01 bye", "ValueError: no: data"),
    ("jax.errors.JaxRuntimeError: OOM\n", "jax.errors.JaxRuntimeError: OOM"),
    ("just this\n\n", "just this"),
    ("", "the log is empty"),
    ("KeyError: " + "x" * 9000, "KeyError: " + "x" * 290 + "..."),
  ],
)
def test_the_line_that_says_what_went_wrong(log, line):
  assert last_meaningful_line(log) == line


def test_a_child_ends_with_its_parent(tmp_path):
  """The parent is killed without a chance to clean up; the child's standard input closes."""
  code = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'from maxtext_sparse.local import child; import threading, time; "
    "threading.Thread(target=child._exit_with_parent, daemon=True).start(); time.sleep(60)'], stdin=subprocess.PIPE)\n"
    "print(child.pid, flush=True); time.sleep(60)"
  )
  parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
  child_pid = int(parent.stdout.readline())
  time.sleep(0.5)
  assert is_running(child_pid)
  parent.kill()
  parent.communicate()
  deadline = time.monotonic() + 30
  while is_running(child_pid) and time.monotonic() < deadline:
    time.sleep(0.1)
  assert not is_running(child_pid)


def is_running(pid):
  """Also false for a zombie that nobody has reaped yet."""
  try:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False


def test_keys_from_outside_do_not_reach_the_child():
  variables = {"M_STEPS": "3", "XLA_FLAGS": "--x", "HOME": "/h", "JAX_PLATFORMS": "tpu"}
  environment = child_environment(variables, num_cpu_devices=1)
  assert environment.items() >= {"HOME": "/h", "JAX_PLATFORMS": "cpu", "DECOUPLE_GCLOUD": "TRUE", "XLA_FLAGS": ""}.items()
  assert "M_STEPS" not in environment
  assert "device_count=4" in child_environment(variables, num_cpu_devices=4)["XLA_FLAGS"]
  assert child_environment(variables, 1, is_offline=False)["DECOUPLE_GCLOUD"] == "FALSE"
  assert child_environment(variables)["JAX_PLATFORMS"] == "tpu"


def test_a_child_that_failed_says_why_and_earlier_attempts_do_not(tmp_path):
  log = tmp_path / "logs" / "run.log"
  environment = child_environment(os.environ, num_cpu_devices=1)
  for name in ("first.yml", "second.yml"):
    with TrainingProcess([name, "other.yml"], str(log), environment) as process:
      while process.wait(1.0) is None:
        pass
    assert process.poll() == 2
    assert process.why_failed().startswith(f"{name}: no such config file")
  with TrainingProcess(["first.yml"], str(log), environment) as process:
    pass
  assert process.why_failed() == "killed by signal 15"
