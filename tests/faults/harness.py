"""What the fault tests share: a nursery of MaxText processes, their kills, and checkpoints as files."""

from collections.abc import Callable
import os
from pathlib import Path
import shutil
import signal
import time

import numpy as np

from tests.hooks.harness import arguments, Result, Server, xla_flags

# Events at 8, 11, ..., 50; checkpoints at 0, 4, ..., 56 and 59: some events at a checkpoint's step, some one before.
LONG = {"steps": 60, "sparsity": 0.8, "gmp_start_step": 8, "gmp_end_step": 50, "gmp_pruning_frequency": 3}
EVENTS = range(8, 51, 3)
SAVING = {"enable_checkpointing": True, "checkpoint_period": 4, "async_checkpointing": False}
ASYNC = SAVING | {"async_checkpointing": True}


class Child:
  """One MaxText process."""

  def __init__(self, nursery: "Nursery", pid: int, log: Path):
    self.pid, self.log, self._nursery = pid, log, nursery
    self.status: int | None = None

  def is_running(self) -> bool:
    if self.status is None:
      self.status = self._nursery.request({"poll": self.pid})
    return self.status is None

  def wait(self, timeout: float = 900) -> int:
    """Exit status; a run that hangs fails the test."""
    self.wait_until(lambda: not self.is_running(), timeout)
    assert self.status is not None
    return self.status

  def wait_until(self, is_due: Callable[[], bool], timeout: float = 900) -> bool:
    """Whether `is_due` came true before the process ended."""
    deadline = time.monotonic() + timeout
    while not is_due():
      if not self.is_running():
        return False
      if time.monotonic() > deadline:
        self.kill()
        raise AssertionError(f"still waiting after {timeout} s:\n{self.log.read_text()[-3000:]}")
      time.sleep(0.002)
    return True

  def kill(self) -> None:
    """kill -9: no clean-up of any kind. Harmless where the process has just ended."""
    if self.is_running():
      os.kill(self.pid, signal.SIGKILL)
      self.wait()

  def terminate(self) -> None:
    """SIGTERM, as a cluster sends it before it takes a machine away."""
    os.kill(self.pid, signal.SIGTERM)


class Nursery(Server):
  """Starts MaxText runs, each in a process of its own."""

  def __init__(self, folder: Path):
    super().__init__(Path(__file__).parent / "nursery.py", folder / "nursery.log")
    self._folder = folder
    self._num_children = 0

  def start(self, out: Path, name: str, call: str = "sparse", num_devices: int = 1, extra=None, **overrides) -> Child:
    """A run of 8 sequences a step; its final state goes to `name.npz`. `extra` are environment variables."""
    args = arguments(out, name, **({"per_device_batch_size": 8 / num_devices} | overrides))
    return self._begin(call, args, name, out / f"{name}.npz", {"XLA_FLAGS": xla_flags(num_devices)} | (extra or {}))

  def command(self, *words: str) -> Child:
    """What `maxtext-sparse WORDS` does, as a user sees it."""
    return self._begin("command", list(words), words[0], None, {"XLA_FLAGS": xla_flags(1)})

  def _begin(self, call: str, args: list[str], name: str, save: Path | None, variables: dict[str, str]) -> Child:
    self._num_children += 1
    log = self._folder / f"{self._num_children:03d}_{name}.log"
    request = {"call": call, "args": args, "save": save and str(save), "log": str(log), "environment": variables}
    return Child(self, self.request(request), log)

  def train(self, out: Path, name: str, **settings) -> Result:
    """Runs to the end."""
    child = self.start(out, name, **settings)
    assert child.wait() == 0, child.log.read_text()[-3000:]
    return Result(out, name)


def saved_steps(out: Path, name: str) -> list[int]:
  """Steps of the finished checkpoints."""
  folder = out / name / "checkpoints"
  finished = [p.parent.name for p in folder.glob("*/commit_success.txt")]
  return sorted(int(step) for step in finished if step.isdigit())


def unfinished_saves(out: Path, name: str) -> list[str]:
  """Checkpoints that a kill left half-written."""
  folders = (out / name / "checkpoints").glob("*")
  return sorted(p.name for p in folders if p.is_dir() and not (p / "commit_success.txt").exists())


def branch(out: Path, name: str, new: str, last: int) -> Path:
  """Copies a run under another name, as it was after its checkpoint at `last`; returns that checkpoint."""
  shutil.copytree(out / name, out / new)
  shutil.copy(out / f"{name}.jsonl", out / f"{new}.jsonl")
  for step in saved_steps(out, new):
    if step > last:
      shutil.rmtree(out / new / "checkpoints" / str(step))
  return out / new / "checkpoints" / str(last)


def written_rows(out: Path, name: str) -> int:
  path = out / f"{name}.jsonl"
  return path.read_bytes().count(b"\n") if path.exists() else 0


def open_weight(checkpoint: Path, path: str):
  """One array of a checkpoint, such as `decoder/layers/mlp/wi_0/kernel`, readable and writable in place."""
  import tensorstore

  store = {"driver": "ocdbt", "base": f"file://{checkpoint / 'items'}", "path": f"params.params.{path.replace('/', '.')}"}
  return tensorstore.open({"driver": "zarr3", "kvstore": store}).result()


def saved_zeros(checkpoint: Path, result: Result) -> dict[str, np.ndarray]:
  """For each prunable weight of a run: where the checkpoint has a zero."""
  trimmed = lambda name: name.removeprefix("model/").removesuffix("/value")
  return {name: open_weight(checkpoint, trimmed(name)).read().result() == 0 for name in result.prunable()}
