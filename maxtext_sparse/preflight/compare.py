"""Three train steps of one config, compiled side by side: dense, between pruning events, and whole."""

from collections.abc import Callable, Sequence
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.preflight.hlo import added, Collective
from maxtext_sparse.preflight.topologies import check_topology, hbm_bytes

# Keys that make each program of the config, put last so that they win.
_OFF = ("pruning_structure=none", "gmp_start_step=-1", "gmp_end_step=-1")
_PROGRAMS: dict[str, tuple[str, ...]] = {
  "dense": ("sparsity=0.0", "pruning_method=global_gradual", *_OFF),
  # Masks gradients and updates as every step does, without the search.
  "between_events": ("sparsity=0.0", "pruning_method=hold", *_OFF),
  "sparse": (),
}
# Reads of the prunable weights that an event takes: one that counts zeros, and the search's passes, up to 9 down to a
# density of 0.2 (tests/pruning/test_search.py). The program's text holds three: zeros, magnitudes, ties.
READS_PER_EVENT = 10
_READS_IN_TEXT = 3


@dataclasses.dataclass(frozen=True)
class Step:
  """Cost of one compiled train step, on each device; bytes and FLOPs as the compiler counts them.

  `out_of_memory` is the compiler's sentence where it refused the step; then nothing else is known.
  """

  argument_bytes: int = 0
  temp_bytes: int = 0
  output_bytes: int = 0
  alias_bytes: int = 0
  code_bytes: int = 0
  flops: float = 0.0
  bytes_accessed: float = 0.0
  collectives: tuple[Collective, ...] = ()
  out_of_memory: str | None = None

  @property
  def total_bytes(self) -> int:
    """Memory in use at once: outputs that overwrite arguments count once."""
    return self.argument_bytes + self.temp_bytes + self.output_bytes - self.alias_bytes + self.code_bytes

  def collective_totals(self) -> dict[str, dict[str, int]]:
    """Kind -> number and total bytes."""
    totals: dict[str, dict[str, int]] = {}
    for collective in self.collectives:
      total = totals.setdefault(collective.kind, {"count": 0, "bytes": 0})
      total["count"] += 1
      total["bytes"] += collective.num_bytes
    return dict(sorted(totals.items()))


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A config on a topology: its train step dense, between events, and as it runs (`sparse`, with the event's branch)."""

  topology: str
  sparsity: float
  frequency: int
  dense: Step
  between_events: Step
  sparse: Step

  @property
  def fits(self) -> bool:
    return not self.sparse.out_of_memory

  @property
  def hbm_bytes(self) -> int | None:
    return hbm_bytes(self.topology)

  def added_collectives(self) -> list[Collective]:
    return added(self.dense.collectives, self.sparse.collectives)

  def event_bytes(self) -> float:
    """Bytes that an event step reads and writes beyond a dense step."""
    return self._mask_bytes() + self._search_bytes()

  def amortised_bytes(self) -> float:
    """Bytes beyond a dense step in the mean over one period P."""
    return self._mask_bytes() + self._search_bytes() / self.frequency

  def _mask_bytes(self) -> float:
    return self.between_events.bytes_accessed - self.dense.bytes_accessed

  def _search_bytes(self) -> float:
    in_text = self.sparse.bytes_accessed - self.between_events.bytes_accessed
    return in_text / _READS_IN_TEXT * READS_PER_EVENT


def compare(
  arguments: Sequence[str], topology: str, num_slices: int, num_jobs: int, tell: Callable[[str], None]
) -> Comparison:
  """Compiles the three programs, each in a process of its own.

  Args:
    arguments: `CONFIG ... key=value ...`, as for `train`.
    topology: a name that MaxText knows.
    num_slices: slices of it.
    num_jobs: processes at a time.
    tell: called with a line when a program is done.

  Raises:
    ConfigError: a bad topology, or a config that MaxText or the plugin refuses, or one that does not prune.
    RunError: the compiler failed for another reason than memory.
  """
  check_topology(topology)
  target = (f"compile_topology={topology}", f"compile_topology_num_slices={num_slices}", "log_config=False")
  with tempfile.TemporaryDirectory(prefix="maxtext_sparse_") as folder:
    start = lambda name: _compile(name, [*arguments, *target, *_PROGRAMS[name]], folder, tell)
    with concurrent.futures.ThreadPoolExecutor(num_jobs) as pool:
      # The sparse one first: it is the one that a bad key fails.
      pending = {name: pool.submit(start, name) for name in reversed(_PROGRAMS)}
      try:
        told = {name: future.result() for name, future in pending.items()}
      except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
  sparse = told["sparse"]
  return Comparison(topology, sparse["sparsity"], sparse["frequency"], **{name: _step(told[name]) for name in _PROGRAMS})


def _compile(name: str, arguments: Sequence[str], folder: str, tell: Callable[[str], None]) -> dict[str, Any]:
  out, log = (os.path.join(folder, f"{name}.{suffix}") for suffix in ("json", "log"))
  command = [sys.executable, "-m", "maxtext_sparse.preflight.compile", out, *arguments]
  # The TPU compiler is found through jax's TPU platform, which needs no TPU.
  environment = {key: value for key, value in os.environ.items() if key not in ("JAX_PLATFORMS", "XLA_FLAGS")}
  # Without a TPU there is nothing that two processes could fight for.
  environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "true"
  started = time.monotonic()
  with open(log, "w", encoding="utf-8") as file:
    status = subprocess.run(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment).returncode
  told = _read(out)
  if told.get("out_of_memory"):
    tell(f"{name}: does not fit")
    return told
  if status != 0 or not told:
    raise _failure(name, log, status)
  if name == "sparse" and not told["is_active"]:
    raise ConfigError(f"sparsity={told['sparsity']}: nothing to compare with dense, give sparsity=0.8, say")
  tell(f"{name}: compiled in {time.monotonic() - started:.0f} s")
  return told


def _read(path: str) -> dict[str, Any]:
  with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
    return json.load(file)
  return {}


def _failure(name: str, log: str, status: int) -> Exception:
  """The child's own one line if it ended with one, its last line otherwise."""
  with open(log, encoding="utf-8", errors="replace") as file:
    lines = [line.strip() for line in file if line.strip()]
  marker = "maxtext-sparse: error: "
  ours = [line.removeprefix(marker) for line in lines if line.startswith(marker)]
  if ours:
    return ConfigError(ours[-1])
  return RunError(f"{name}: compilation ended with status {status}: {lines[-1] if lines else 'no output'}")


def _step(told: dict[str, Any]) -> Step:
  names = {field.name for field in dataclasses.fields(Step)}
  known = {name: value for name, value in told.items() if name in names}
  known["collectives"] = tuple(Collective(**collective) for collective in told.get("collectives", ()))
  return Step(**known)
