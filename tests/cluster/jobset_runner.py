"""Does on this machine what Kubernetes and JobSet do with a manifest: pods as processes, exit codes, restarts.

Each pod is the container's command, run by bash. JobSet gives each pod its index. Everything else comes from the
manifest. The machine is a CPU, so the runner also sets what a CPU host needs to find the others.
"""

from collections.abc import Callable
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from maxtext_sparse.cluster.jobset import pod_of
from tests.cluster.conftest import expand
from tests.faults import bucket
from tests.hooks.harness import environment

# Tests need not wait as long for a pod as a cluster does.
_GRACE_SECONDS = 30
_POLL_SECONDS = 0.2


class JobSetRunner:
  """One JobSet from its start to its end.

  Attributes:
    attempts: for each attempt, the exit status of each pod in order; None for a pod that had to be killed.
  """

  def __init__(self, jobset: dict[str, Any], folder: Path, variables: dict[str, str]):
    self._spec = jobset["spec"]
    self._job = self._spec["replicatedJobs"][0]
    self._pod = pod_of(jobset)
    self._folder, self._variables = folder, variables
    self._pods_in_job: int = self._job["template"]["spec"]["completions"]
    self.num_pods: int = self._job["replicas"] * self._pods_in_job
    self.attempts: list[list[int | None]] = []
    self._install_python()

  def run(self, disturb: Callable[[list[subprocess.Popen]], bool] = lambda pods: True, timeout: float = 900) -> str:
    """Runs to the end: "Completed" or "Failed".

    Args:
      disturb: is asked again and again with the pods of the first attempt, until it has done its harm and says True.
      timeout: seconds for each attempt.
    """
    while True:
      is_first = not self.attempts
      statuses = self._attempt(disturb if is_first else lambda pods: True, timeout)
      self.attempts.append(statuses)
      if all(status == 0 for status in statuses):
        return "Completed"
      if any(self._fails_at_once(status) for status in statuses if status) or self.num_restarts >= self._max_restarts:
        return "Failed"

  @property
  def num_restarts(self) -> int:
    return len(self.attempts) - 1

  def log(self, attempt: int, pod: int) -> str:
    return self._log(attempt, pod).read_text(errors="replace")

  @property
  def _max_restarts(self) -> int:
    maximum: int = self._spec["failurePolicy"]["maxRestarts"]
    return maximum

  def _attempt(self, disturb: Callable[[list[subprocess.Popen]], bool], timeout: float) -> list[int | None]:
    """Starts all pods and waits until all have ended well or one has failed, which ends the others."""
    pods = [self._start(index) for index in range(self.num_pods)]
    deadline, is_disturbed = time.monotonic() + timeout, False
    try:
      while any(pod.poll() is None for pod in pods) and not any(pod.poll() for pod in pods):
        assert time.monotonic() < deadline, self.log(len(self.attempts), 0)[-3000:]
        is_disturbed = is_disturbed or disturb(pods)
        time.sleep(_POLL_SECONDS)
      return self._end(pods)
    finally:
      for pod in pods:
        kill_pod(pod)

  def _end(self, pods: list[subprocess.Popen]) -> list[int | None]:
    """Stops the pods that still run, as JobSet does before it restarts, and waits for the grace period."""
    deadline = time.monotonic() + _GRACE_SECONDS
    for pod in pods:
      if pod.poll() is None:
        pod.terminate()
    statuses: list[int | None] = []
    for pod in pods:
      try:
        statuses.append(_exit_code(pod.wait(max(0.1, deadline - time.monotonic()))))
      except subprocess.TimeoutExpired:
        statuses.append(None)
    return statuses

  def _start(self, index: int) -> subprocess.Popen:
    container = self._pod["containers"][-1]
    env: dict[str, str] = {}
    for item in container.get("env") or []:
      env[item["name"]] = expand(item["value"], env)
    command = [expand(word, env) for word in container["command"]]
    environment = {"PATH": f"{self._folder / 'bin'}:{os.environ['PATH']}"} | env | self._variables | self._own(index)
    disk = self._log(len(self.attempts), index).with_suffix("")  # a pod that restarts has lost what it wrote
    disk.mkdir()
    with self._log(len(self.attempts), index).open("w") as output:
      # A session of its own, so that the whole pod can be killed.
      return subprocess.Popen(
        command, cwd=disk, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
      )

  def _own(self, index: int) -> dict[str, str]:
    """The variables of one pod, with the names of MaxText's launcher for CPU hosts. A job is a slice."""
    job, index_in_job = divmod(index, self._pods_in_job)
    return {
      "JOB_INDEX": str(job),
      "JOB_COMPLETION_INDEX": str(index_in_job),
      "PROCESSES_IN_JOB": str(self._pods_in_job),
      "JAX_PROCESS_COUNT": str(self.num_pods),
      "JAX_COORDINATOR_ADDRESS": "localhost",
      "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
      "M_HARDWARE": "cpu",
    }

  def _fails_at_once(self, status: int) -> bool:
    """Whether an exit status matches a rule of the pod failure policy, and so ends the JobSet without a restart."""
    rules = (self._job["template"]["spec"].get("podFailurePolicy") or {}).get("rules") or []
    for rule in rules:
      codes = rule.get("onExitCodes")
      if codes and (status in codes["values"]) == (codes["operator"] == "In"):
        reasons = [r for r in self._spec["failurePolicy"].get("rules") or [] if r["action"] == "FailJobSet"]
        return rule["action"] == "FailJob" and any("PodFailurePolicy" in r["onJobFailureReasons"] for r in reasons)
    return False

  def _install_python(self) -> None:
    """The image's `python3`, for which the TPU is a CPU, and a `sleep` with which xpk's script looks more often."""
    programs = self._folder / "bin"
    programs.mkdir(parents=True)
    python = f'JAX_PLATFORMS=cpu exec {sys.executable} "$@"'
    for name, line in (("python3", python), ("sleep", "exec /bin/sleep 0.2")):
      (programs / name).write_text(f"#!/bin/bash\n{line}\n", encoding="utf-8")
      (programs / name).chmod(0o755)

  def _log(self, attempt: int, pod: int) -> Path:
    return self._folder / f"attempt{attempt}_pod{pod}.log"


def variables(port: int) -> dict[str, str]:
  """What a pod on this machine needs beside its manifest: the package, and where the bucket is."""
  kept = {name: value for name, value in environment().items() if name in ("PYTHONPATH", "HOME", "XLA_FLAGS")}
  return kept | bucket.variables(port)


def kill_pod(pod: subprocess.Popen) -> None:
  """kill -9 of a pod and all processes in it, as when its host is lost."""
  try:
    os.killpg(pod.pid, signal.SIGKILL)
  except ProcessLookupError:
    return
  pod.wait()


def _exit_code(status: int) -> int:
  """The code that Kubernetes sees: 128 + the signal for a process that a signal ended."""
  return status if status >= 0 else 128 - status
