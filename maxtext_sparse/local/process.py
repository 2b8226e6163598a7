"""Runs MaxText's training in a child process that ends with its parent, and finds in its log why it failed."""

from collections.abc import Mapping, Sequence
import contextlib
import os
import subprocess
import sys
from typing import Self

import maxtext_sparse

# Time for a child to end by itself before it is killed.
_GRACE_SECONDS = 5.0
_ERROR_PREFIX = "maxtext-sparse: error: "
# Longer reasons are cut, because MaxText prints whole configs in one line.
_LONGEST_REASON = 300


class TrainingProcess:
  """One `maxtext_sparse.train` in a child process. In a with block, the child ends at the latest with the block."""

  def __init__(
    self,
    arguments: Sequence[str],
    log_file: str,
    environment: Mapping[str, str],
    directory: str | None = None,
    cores: Sequence[int] | None = None,
  ):
    """Starts the child.

    Args:
      arguments: `CONFIG ... key=value ...`, as for `train`.
      log_file: file to which the child's output is appended; its folder is made if it is missing.
      environment: all of the child's variables.
      directory: the child's working directory, this process's if None.
      cores: CPU cores that the child keeps to, all if None.
    """
    self.log_file = log_file
    os.makedirs(os.path.dirname(os.path.abspath(log_file)), exist_ok=True)
    with open(log_file, "ab") as log:
      # Earlier attempts wrote what comes before this.
      self._log_start = log.tell()
      self._process = subprocess.Popen(
        [sys.executable, "-m", "maxtext_sparse.local.child", *arguments],
        # The child ends when this pipe closes, and the system closes it however this process ends (`local/child.py`).
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=dict(environment),
        # Ctrl-C in the terminal then reaches only this process, which ends the child.
        start_new_session=True,
      )
    if cores is not None:
      # The child has not started threads yet, and those that it starts keep to the same cores.
      os.sched_setaffinity(self._process.pid, cores)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self.end()

  def poll(self) -> int | None:
    """The exit status, None while the child runs."""
    return self._process.poll()

  def wait(self, seconds: float) -> int | None:
    """Waits at most so many seconds for the child to end, and returns what `poll` does."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(seconds)
    return self.poll()

  def end(self) -> None:
    """Stops the child. Its checkpoints stay, and the next attempt goes on from the last one."""
    if self._process.poll() is None:
      self._process.terminate()
      if self.wait(_GRACE_SECONDS) is None:
        self._process.kill()
        self._process.wait()
    assert self._process.stdin is not None
    self._process.stdin.close()

  def why_failed(self) -> str:
    """One line that says why the child failed: the signal that killed it, or the reason in its log."""
    status = self._process.returncode
    if status < 0:
      return f"killed by signal {-status}"
    with open(self.log_file, encoding="utf-8", errors="replace") as file:
      file.seek(self._log_start)
      line = last_meaningful_line(file.read())
    return f"ended before its last step: {line}" if status == 0 else line


def child_environment(
  environment: Mapping[str, str], num_cpu_devices: int | None = None, is_offline: bool = True
) -> dict[str, str]:
  """Environment variables for a child whose config alone decides what it does.

  Args:
    environment: the variables of this process. `M_*` variables would change keys of the config and are left out.
    num_cpu_devices: number of fake devices of this CPU to train on. None trains on the real devices.
    is_offline: whether a run on the CPU leaves out MaxText's cloud clients. A run that writes into a bucket needs them.
  """
  kept = {name: value for name, value in environment.items() if not name.startswith("M_")}
  package = os.path.dirname(os.path.dirname(os.path.abspath(maxtext_sparse.__file__)))
  kept["PYTHONPATH"] = os.pathsep.join(filter(None, [package, kept.get("PYTHONPATH")]))
  kept |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
  if num_cpu_devices is None:
    return kept
  flag = f"--xla_force_host_platform_device_count={num_cpu_devices}"
  return kept | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": flag if num_cpu_devices > 1 else "",
    # By default jax caches only programs that take longer than a second to compile, which small models do not.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    # TRUE saves the seconds in which MaxText loads its cloud clients.
    "DECOUPLE_GCLOUD": "TRUE" if is_offline else "FALSE",
    "HF_HUB_OFFLINE": "1",
  }


def last_meaningful_line(text: str) -> str:
  """The line of a log that says what went wrong: our own error, or an exception, or otherwise the last line."""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  ours = [line.removeprefix(_ERROR_PREFIX) for line in lines if line.startswith(_ERROR_PREFIX)]
  # The line of an exception has the name of its class before the first colon: `ValueError: bad value`. The text before
  # the first colon of a log line ends with a time.
  raised = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception", "Interrupt"))]
  line = (ours or raised or lines or ["the log is empty"])[-1]
  return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


def core_shares(jobs: int) -> list[Sequence[int] | None]:
  """Separate CPU cores for each job, None for all cores.

  Two jobs on one core each finish earlier than two jobs whose threads compete for both cores.
  """
  cores = _allowed_cores()
  if jobs == 1 or len(cores) < jobs:
    return [None] * jobs
  size = len(cores) // jobs
  return [cores[slot * size : (slot + 1) * size] for slot in range(jobs)]


def num_cores() -> int:
  """Number of CPU cores that this process may use."""
  return len(_allowed_cores()) or os.cpu_count() or 1


def _allowed_cores() -> list[int]:
  """The cores that this process may use; empty on a system where a process cannot be kept to some."""
  return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
