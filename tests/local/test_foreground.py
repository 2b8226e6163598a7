"""The bar of a run in this process: MaxText's log goes into a file, and the terminal shows what matters."""

import contextlib
import fcntl
import os
from pathlib import Path
import pty
import re
import struct
import subprocess
import sys
import termios

REPO = Path(__file__).parents[2]
# Stands for a run that logs in Python, in C++, and in a child process.
RUN = """
import logging, os, subprocess, sys
from maxtext_sparse.hooks import listeners
from maxtext_sparse.local.foreground import bar_and_log
values = {"steps": 10, "sparsity": 0.5, **dict(word.split("=") for word in sys.argv[1:])}
with bar_and_log(values):
  print("a line of MaxText")
  os.write(2, b"a line of XLA\\n")
  subprocess.run(["echo", "a line of a child"], check=True)
  logging.getLogger("maxtext_sparse").warning("pruning event at step 4 left under 1 %%")
  listeners.tell({"learning/loss": 2.0, "pruning/density": 0.75}, 4)
  listeners.tell({"eval/avg_loss": 3.0}, 9)
print("after the run")
"""
FAILING_RUN = """
from maxtext_sparse.errors import one_line_errors, RunError
from maxtext_sparse.local.foreground import bar_and_log
with one_line_errors(), bar_and_log({"steps": 10, "base_output_directory": ".", "run_name": "a"}):
  print("a line of MaxText")
  with one_line_errors():  # as around MaxText's main
    raise RunError("why the run failed")
"""
LINES = ["a line of MaxText", "a line of XLA", "a line of a child"]


def run(*words):
  command = [sys.executable, "-c", RUN, *words]
  variables = os.environ | {"PYTHONPATH": str(REPO)}
  return subprocess.run(command, capture_output=True, text=True, env=variables, check=True)


def test_the_log_is_in_the_folder_of_the_run(tmp_path):
  done = run(f"base_output_directory={tmp_path}", "run_name=a")
  log = tmp_path / "a" / "train.log"
  assert sorted(log.read_text().splitlines()) == sorted(LINES)
  assert done.stdout == "after the run\n"
  assert done.stderr.splitlines() == [
    f"log: {log}",
    "a: starting MaxText",
    "pruning event at step 4 left under 1 %%",
    "a: step 5/10, loss 2.000, density 0.750",
  ]


def test_a_run_without_a_local_folder_logs_into_a_temporary_file():
  done = run("base_output_directory=gs://bucket/runs", "run_name=a")
  path = Path(done.stderr.splitlines()[0].removeprefix("log: "))
  assert sorted(path.read_text().splitlines()) == sorted(LINES)
  path.unlink()


def on_a_terminal(*words) -> str:
  """What the run shows on a terminal of 80 columns, without its control sequences."""
  terminal, end = pty.openpty()
  fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
  variables = os.environ | {"PYTHONPATH": str(REPO), "TERM": "xterm"}
  with subprocess.Popen([sys.executable, "-c", RUN, *words], stdout=end, stderr=end, env=variables) as process:
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is closed when the process ends
      while block := os.read(terminal, 65536):
        shown += block
  os.close(terminal)
  assert process.returncode == 0, shown
  return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown.decode()).replace("\r", "\n")


def test_a_terminal_shows_the_bar_and_nothing_of_the_log(tmp_path):
  shown = on_a_terminal(f"base_output_directory={tmp_path}", "run_name=a")
  log = (tmp_path / "a" / "train.log").read_text()
  assert sorted(log.splitlines()) == sorted(LINES)
  assert not any(line in shown for line in LINES) and "after the run" in shown
  assert "pruning event at step 4 left under 1 %%" in shown and "step 5/10 loss 2.000, density 0.750, eval 3.000" in shown
  assert all(len(line) <= 80 for line in shown.splitlines() if str(tmp_path) not in line)


def failed_run(folder):
  # Without PYTHONUNBUFFERED, so that the log is in a buffer when the run fails.
  variables = os.environ | {"PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": ""}
  done = subprocess.run(
    [sys.executable, "-c", FAILING_RUN], capture_output=True, text=True, env=variables, cwd=folder, check=False
  )
  return done.returncode, done.stdout, done.stderr.splitlines()


SHOWN = ["log: ./a/train.log", "a: starting MaxText", "maxtext-sparse: error: why the run failed"]


def test_the_line_of_a_failed_run_is_on_the_terminal_and_not_in_the_log(tmp_path):
  assert failed_run(tmp_path) == (1, "", SHOWN)
  assert (tmp_path / "a" / "train.log").read_text() == "a line of MaxText\n"


def test_a_log_on_a_full_disk_does_not_hide_how_the_run_ends(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "train.log").symlink_to("/dev/full")
  assert failed_run(tmp_path) == (1, "", SHOWN)
