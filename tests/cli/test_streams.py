"""The standard streams of a real process: full, closed, of another encoding, or read by nobody."""

import fcntl
import os
from pathlib import Path
import pty
import struct
import subprocess
import sys
import termios

REPO = Path(__file__).parents[2]
PLAN = "plan --steps 1000 --sparsity 0.5"


def shell(command: str, tmp_path: Path, **variables: str):
  """Runs a line of bash in which `cli` is the command."""
  environment = os.environ | {"PYTHONPATH": str(REPO), "PYTHON": sys.executable} | variables
  line = f'cli() {{ "$PYTHON" -m maxtext_sparse "$@"; }}; {command}'
  done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
  assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
  return done.returncode, done.stdout, done.stderr


def test_a_full_disk_behind_the_output_is_one_line(tmp_path):
  line = "maxtext-sparse: error: output: cannot write (No space left on device)\n"
  # The first text is written at once, the second only when the process ends.
  for command in (f"{PLAN} --plot plan.svg", "keys --json"):
    assert shell(f"cli {command} > /dev/full", tmp_path) == (1, "", line)


def test_who_stops_reading_hears_nothing(tmp_path):
  status, shown, told = shell("cli keys | true; exit ${PIPESTATUS[0]}", tmp_path)
  assert (status in (0, 1), shown, told) == (True, "", "")


def test_closed_streams_are_no_error(tmp_path):
  assert shell(f"cli {PLAN} >&-", tmp_path) == (0, "", "")
  assert shell("cli plan --steps 0 --sparsity 0.5 2>&-", tmp_path) == (2, "", "")


def test_a_terminal_without_blocks_gets_a_plan_in_ascii(tmp_path):
  status, shown, told = shell(f"cli {PLAN}", tmp_path, PYTHONIOENCODING="ascii")
  assert (status, told) == (0, "") and shown.isascii() and "?" not in shown
  assert "   1.00 |####" in shown and "      0 +----" in shown


def test_a_working_folder_that_is_gone_is_one_line(tmp_path):
  command = f"mkdir gone && cd gone && rmdir ../gone && cli {PLAN}"
  line = "maxtext-sparse: error: the working folder is gone, change to one that exists\n"
  assert shell(command, tmp_path) == (2, "", line)


def test_a_terminal_breaks_the_line_of_an_error_between_words(tmp_path):
  ours, terminal = pty.openpty()
  fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
  command = [sys.executable, "-m", "maxtext_sparse", "plan", "--steps", "1000", "--mfu", "45%"]
  done = subprocess.run(command, stderr=terminal, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPO)}, check=False)
  assert done.returncode == 2
  assert os.read(ours, 1000).decode().splitlines() == [
    "maxtext-sparse: error: --mfu=45%: must",
    "be a number from 0.001 to 1, write 0.45",
  ]
  os.close(ours)
  os.close(terminal)
