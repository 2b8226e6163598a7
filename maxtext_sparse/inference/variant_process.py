"""A process that holds one form of a model, pinned to its cores, as seen from the one that compares."""

from collections.abc import Mapping, Sequence
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from maxtext_sparse.errors import RunError
from maxtext_sparse.local.process import last_meaningful_line


class Variant:
  """A worker process that holds one variant; it ends with the `with` block.

  Attributes:
    loaded: what it said when it had loaded the model.
  """

  loaded: Mapping[str, Any]

  def __init__(self, folder: str, cpus: Sequence[int], name: str):
    self._name = name
    command = [sys.executable, "-m", "maxtext_sparse.inference.worker", folder, name, ",".join(map(str, cpus))]
    # Closed in __exit__; a pipe could fill up, since nobody reads it while the process works.
    self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
    pipe = subprocess.PIPE
    self._process = subprocess.Popen(
      command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True, env=pinned_environment(cpus)
    )

  def __enter__(self) -> "Variant":
    return self

  def __exit__(self, *_: object) -> None:
    assert self._process.stdin is not None and self._process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    try:
      self._process.wait(timeout=30)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process.stdout.close()
    self._errors.close()

  def load(self) -> None:
    self.loaded = self.ask("load")

  def ask(self, do: str, **arguments: Any) -> Any:
    """Sends a request and returns the answer.

    Raises:
      RunError: the process ended instead; the message has its last line.
    """
    assert self._process.stdin is not None and self._process.stdout is not None
    try:
      self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
      self._process.stdin.flush()
      answer = self._process.stdout.readline()
    except BrokenPipeError:
      answer = ""
    if answer:
      return json.loads(answer)
    self._process.wait()
    self._errors.seek(0)
    reason = last_meaningful_line(self._errors.read()) or f"exit status {self._process.returncode}"
    raise RunError(f"{self._name}: {reason.removeprefix('maxtext-sparse: error: ')}")


def pinned_environment(cpus: Sequence[int]) -> dict[str, str]:
  """This environment with torch's threads pinned to the cores."""
  places = ",".join(f"{{{cpu}}}" for cpu in cpus)
  count = str(len(cpus))
  pinned = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_PROC_BIND": "true", "OMP_PLACES": places}
  return os.environ | pinned | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
