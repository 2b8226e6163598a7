"""MaxText's training as a child process that does not outlive its parent, with a log whose last words can be read."""

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
# MaxText prints whole configs in one line.
_LONGEST_REASON = 300


class TrainingProcess:
  """One `maxtext_sparse.train` in a child process. Use it in a with block: the child ends with the block."""

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
      log_file: what the child prints is appended to it; its folder is made if it is missing.
      environment: all of the child's variables.
      directory: the child's working directory, this process's if None.
      cores: CPU cores that the child keeps to, all if None.
    """
    self.log_file = log_file
    os.makedirs(os.path.dirname(os.path.abspath(log_file)), exist_ok=True)
    with open(log_file, "ab") as log:
      # Earlier attempts have written what is before.
      self._log_start = log.tell()
      self._process = subprocess.Popen(
        [sys.executable, "-m", "maxtext_sparse.local.child", *arguments],
        # The child ends when this end of its standard input closes, however this process dies.
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=dict(environment),
        # Ctrl-C in the terminal reaches the parent alone, which then ends the child.
        start_new_session=True,
      )
    if cores is not None:
      # The child has started no threads yet; they inherit its cores.
      os.sched_setaffinity(self._process.pid, cores)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self.end()

  def poll(self) -> int | None:
    """The exit status, None while the child trains."""
    return self._process.poll()

  def wait(self, seconds: float) -> int | None:
    """Waits for the end of the child, at most so long, and returns as `poll`."""
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(seconds)
    return self.poll()

  def end(self) -> None:
    """Ends the child where it is. Its checkpoints stay, and the next attempt goes on from them."""
    if self._process.poll() is None:
      self._process.terminate()
      if self.wait(_GRACE_SECONDS) is None:
        self._process.kill()
        self._process.wait()
    assert self._process.stdin is not None
    self._process.stdin.close()

  def why_failed(self) -> str:
    """One line on a child that ended without success: the signal that killed it, or what its log says."""
    status = self._process.returncode
    if status < 0:
      return f"killed by signal {-status}"
    with open(self.log_file, encoding="utf-8", errors="replace") as file:
      file.seek(self._log_start)
      line = last_meaningful_line(file.read())
    return f"ended before its last step: {line}" if status == 0 else line


def child_environment(environment: Mapping[str, str], num_cpu_devices: int | None = None) -> dict[str, str]:
  """Variables for a child whose config alone decides what it does.

  Args:
    environment: this process's variables; its `M_*` ones would change keys of the config and are left out.
    num_cpu_devices: train on so many fake devices of this CPU and without a network; None trains on what there is.
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
    # Programs this small compile in less than the second from which on jax keeps them.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    # Without the cloud clients MaxText starts seconds sooner.
    "DECOUPLE_GCLOUD": "TRUE",
    "HF_HUB_OFFLINE": "1",
  }


def last_meaningful_line(text: str) -> str:
  """The line of a log that says what went wrong: our own error, else an exception's last line, else the last line."""
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  ours = [line.removeprefix(_ERROR_PREFIX) for line in lines if line.startswith(_ERROR_PREFIX)]
  # An exception's line names its class before the first colon: it has no spaces, unlike absl's log lines.
  raised = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception", "Interrupt"))]
  line = (ours or raised or lines or ["the log is empty"])[-1]
  return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."
