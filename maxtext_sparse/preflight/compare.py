"""Compiles three train steps of one config side by side: dense, between two pruning events, and at an event."""

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

from maxtext_sparse.arguments import check_arguments, require_model
from maxtext_sparse.config import parse_keys
from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.local.process import last_meaningful_line
from maxtext_sparse.preflight.hlo import added, Collective
from maxtext_sparse.preflight.topologies import check_topology, hbm_bytes

# The keys that make each program out of the config. They replace the user's.
_OFF = (
  *("pruning_structure=none", "prune_groups=[]", "min_matrix_density=0.0"),
  *("gmp_start_step=-1", "gmp_end_step=-1"),
)
_PROGRAMS: dict[str, tuple[str, ...]] = {
  "dense": ("sparsity=0.0", "pruning_method=global_gradual", *_OFF),
  # Masks gradients and updates, as every step does, and never searches for a threshold.
  "between_events": ("sparsity=0.0", "pruning_method=hold", *_OFF),
  "sparse": (),
}
# How often an event reads all prunable weights: once to count zeros, and then once per pass of the search, which takes up
# to 9 passes down to a density of 0.2 (tests/pruning/test_search.py). The compiler counts a loop's body once, so it
# counts three reads: zeros, magnitudes, ties.
READS_PER_EVENT = 10
_READS_IN_TEXT = 3


@dataclasses.dataclass(frozen=True)
class Step:
  """The cost of one compiled train step on each device, as the compiler counts it.

  Attributes:
    argument_bytes, temp_bytes, output_bytes, alias_bytes, code_bytes: memory; `alias_bytes` is the part of the outputs
      that overwrites arguments.
    flops, bytes_accessed: work of the step. The body of a loop counts once.
    collectives: what the step moves between devices.
    out_of_memory: the compiler's sentence if the step does not fit. Nothing else is known then.
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
    """Memory that is in use at once. Outputs that overwrite arguments count once."""
    return self.argument_bytes + self.temp_bytes + self.output_bytes - self.alias_bytes + self.code_bytes

  def collective_totals(self) -> dict[str, dict[str, int]]:
    """Maps each kind of collective to its count and its total bytes."""
    totals: dict[str, dict[str, int]] = {}
    for collective in self.collectives:
      total = totals.setdefault(collective.kind, {"count": 0, "bytes": 0})
      total["count"] += 1
      total["bytes"] += collective.num_bytes
    return dict(sorted(totals.items()))


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The three train steps of one config on one topology.

  Attributes:
    topology: a name that MaxText knows.
    sparsity: S of the config.
    frequency: P, steps between pruning events.
    dense: the step of stock MaxText.
    between_events: the step of a sparse run without the branch of the event.
    sparse: the step as it runs, with the branch of the event.
  """

  topology: str
  sparsity: float
  frequency: int
  dense: Step
  between_events: Step
  sparse: Step

  @property
  def fits(self) -> bool:
    """Whether the sparse step fits into the memory of the devices."""
    return not self.sparse.out_of_memory

  @property
  def hbm_bytes(self) -> int | None:
    """Memory of one device, None if it is not known."""
    return hbm_bytes(self.topology)

  def added_collectives(self) -> list[Collective]:
    """The collectives of the sparse step that the dense step does not have."""
    return added(self.dense.collectives, self.sparse.collectives)

  def event_bytes(self) -> float:
    """Bytes that an event step reads and writes beyond a dense step."""
    return self._mask_bytes() + self._search_bytes()

  def amortised_bytes(self) -> float:
    """Bytes beyond a dense step, averaged over one period of P steps."""
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
    num_slices: number of slices of that topology.
    num_jobs: number of processes at a time.
    tell: is called with a line when a program is done.

  Raises:
    ConfigError: the topology is unknown, MaxText or the plugin refuses the config, or the config does not prune.
    RunError: the compiler failed, and not for lack of memory.
  """
  target = (f"compile_topology={topology}", f"compile_topology_num_slices={num_slices}")
  values = check_arguments([*arguments, *target])
  require_model(arguments)
  check_topology(topology)
  if not parse_keys(values).is_active:
    raise ConfigError("sparsity=0: this run is dense, give for example sparsity=0.8")
  with tempfile.TemporaryDirectory(prefix="maxtext_sparse_") as folder:

    def start(name: str) -> dict[str, Any]:
      return _compile(name, _with_keys(arguments, [*target, "log_config=False", *_PROGRAMS[name]]), folder, tell)

    with concurrent.futures.ThreadPoolExecutor(num_jobs) as pool:
      # The sparse program comes first, because it is the one that a bad key fails.
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
  # jax finds the TPU compiler through its TPU platform, which needs no TPU.
  environment = {key: value for key, value in os.environ.items() if key not in ("JAX_PLATFORMS", "XLA_FLAGS")}
  # Only one process may use a TPU, but the compiler alone uses none.
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
  tell(f"{name}: compiled in {time.monotonic() - started:.0f} s")
  return told


def _read(path: str) -> dict[str, Any]:
  with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
    told: dict[str, Any] = json.load(file)
    return told
  return {}


def _failure(name: str, log: str, status: int) -> Exception:
  """The child's own one line if it refused the config, and otherwise what its log says."""
  with open(log, encoding="utf-8", errors="replace") as file:
    reason = last_meaningful_line(file.read())
  if status == ConfigError.exit_status:
    return ConfigError(reason)
  return RunError(f"{name}: compilation ended with status {status}: {reason}")


def _with_keys(arguments: Sequence[str], replaced: Sequence[str]) -> list[str]:
  """Replaces keys of `arguments`, since no key may be given twice."""
  keys = {override.partition("=")[0] for override in replaced}
  return [*(argument for argument in arguments if argument.partition("=")[0] not in keys), *replaced]


def _step(told: dict[str, Any]) -> Step:
  names = {field.name for field in dataclasses.fields(Step)}
  known = {name: value for name, value in told.items() if name in names}
  known["collectives"] = tuple(Collective(**collective) for collective in told.get("collectives", ()))
  return Step(**known)
