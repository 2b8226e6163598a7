"""One run as a child process of `sweep run`, which it does not outlive."""

from collections.abc import Mapping, Sequence
import glob
import os
import subprocess
import sys
from typing import Any, IO

import maxtext_sparse
from maxtext_sparse.demo.runs import last_meaningful_line
from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.state import metrics_file

# Time for a child to end by itself before it is killed.
_GRACE_SECONDS = 5.0


class Child:
  """A training process, and the end of its log that is its own."""

  def __init__(self, manifest: Manifest, run: Run, cores: Sequence[int] | None):
    """Starts training from the run's last checkpoint.

    Args:
      manifest: the sweep.
      run: what to train.
      cores: CPU cores that it keeps to, all if None.
    """
    self.run = run
    self.log_file = os.path.join(manifest.directory, "logs", f"{run.name}.log")
    os.makedirs(os.path.dirname(self.log_file), exist_ok=True)
    config = manifest.load_config(run)
    with open(self.log_file, "ab") as log:
      self._log_start = log.tell()
      self._process = self._start(manifest, config, log)
    if cores is not None:
      # Before it has started threads: they inherit it.
      os.sched_setaffinity(self._process.pid, cores)

  def poll(self) -> int | None:
    """The exit status, None while it trains."""
    return self._process.poll()

  def end(self) -> None:
    """Ends it where it is; its checkpoints carry on."""
    if self._process.poll() is None:
      self._process.terminate()
      try:
        self._process.wait(_GRACE_SECONDS)
      except subprocess.TimeoutExpired:
        self._process.kill()
        self._process.wait()
    assert self._process.stdin is not None
    self._process.stdin.close()

  def why_failed(self) -> str:
    """One line: what its log says of an exit without success."""
    status = self._process.returncode
    if status < 0:
      return f"killed by signal {-status}"
    with open(self.log_file, encoding="utf-8", errors="replace") as file:
      file.seek(self._log_start)
      line = last_meaningful_line(file.read())
    return f"ended before its last step: {line}" if status == 0 else line

  def _start(self, manifest: Manifest, config: Mapping[str, Any], log: IO[bytes]) -> subprocess.Popen:
    return subprocess.Popen(
      [sys.executable, "-m", "maxtext_sparse.demo.child", *_arguments(manifest, self.run)],
      # The child ends when this end of its standard input closes, however this process dies.
      stdin=subprocess.PIPE,
      stdout=log,
      stderr=subprocess.STDOUT,
      # Paths in the configs are relative to the sweep's folder.
      cwd=manifest.directory,
      env=_environment(os.environ, manifest, config),
      # Ctrl-C in the terminal reaches the parent alone, which then ends its children.
      start_new_session=True,
    )


def _arguments(manifest: Manifest, run: Run) -> list[str]:
  """The shipped config, with absolute paths where MaxText wants them."""
  folder = os.path.abspath(manifest.directory)
  arguments = [
    os.path.join(folder, run.config),
    f"base_output_directory={manifest.output_path}",
    f"metrics_file={metrics_file(manifest, run)}",
    f"jax_cache_dir={os.path.join(folder, 'jax_cache')}",
  ]
  if manifest.spec.get("corpus") is not None:
    corpus = os.path.join(glob.escape(folder), "corpus")
    arguments += [f"grain_{part}_files={corpus}/{part}.parquet" for part in ("train", "eval")]
    arguments += [f"tokenizer_path={os.path.join(folder, 'corpus', 'vocabulary.model')}"]
  return arguments


def _environment(environment: Mapping[str, str], manifest: Manifest, config: Mapping[str, Any]) -> dict[str, str]:
  """No key of a run changed from outside; on CPU as many devices as the sweep file says, and no network."""
  kept = {name: value for name, value in environment.items() if not name.startswith("M_")}
  package = os.path.dirname(os.path.dirname(os.path.abspath(maxtext_sparse.__file__)))
  kept["PYTHONPATH"] = os.pathsep.join(filter(None, [package, kept.get("PYTHONPATH")]))
  kept |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
  if config.get("hardware") != "cpu":
    return kept
  devices = manifest.spec.get("devices", 1)
  return kept | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}" if devices > 1 else "",
    # Programs this small compile in less than the second from which jax keeps them.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    # Without the cloud clients MaxText starts seconds sooner.
    "DECOUPLE_GCLOUD": "TRUE",
    "HF_HUB_OFFLINE": "1",
  }
