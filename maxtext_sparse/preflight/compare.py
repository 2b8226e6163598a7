"""Compiles the dense and the sparse train step of one config side by side.

The dense program is compiled for its memory and its collectives. What sparsity adds in time is read from the sparse
program alone, from the operations of the gradient mask and of the event. Two programs that are compiled apart also differ
in how their other operations are fused, so a difference of both would say little about sparsity.
"""

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
from maxtext_sparse.preflight.collectives import added, Collective
from maxtext_sparse.preflight.compile import text_path
from maxtext_sparse.preflight.hlo import parse
from maxtext_sparse.preflight.pace import Pace
from maxtext_sparse.preflight.roofline import Slice, StepTime, time_of
from maxtext_sparse.preflight.tally import Work, work_of
from maxtext_sparse.preflight.topologies import check_topology, slice_of

# The keys that make each program out of the config. They replace the user's.
_PROGRAMS: dict[str, tuple[str, ...]] = {
  "dense": (
    *("sparsity=0.0", "pruning_method=global_gradual", "pruning_structure=none", "prune_groups=[]"),
    *("min_matrix_density=0.0", "gmp_start_step=-1", "gmp_end_step=-1"),
  ),
  "sparse": (),
}


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on each device. `alias_bytes` is the part of the outputs that overwrites arguments."""

  argument_bytes: int = 0
  temp_bytes: int = 0
  output_bytes: int = 0
  alias_bytes: int = 0
  code_bytes: int = 0

  @property
  def total_bytes(self) -> int:
    """Memory that is in use at once. Outputs that overwrite arguments count once."""
    return self.argument_bytes + self.temp_bytes + self.output_bytes - self.alias_bytes + self.code_bytes


@dataclasses.dataclass(frozen=True)
class Step:
  """One compiled train step on each device.

  Attributes:
    memory: what it needs.
    work: its operations, with every loop multiplied by its trips.
    out_of_memory: the compiler's sentence if the step does not fit. Nothing else is known then.
  """

  memory: Memory = dataclasses.field(default_factory=Memory)
  work: Work = dataclasses.field(default_factory=Work)
  out_of_memory: str | None = None

  @property
  def flops(self) -> float:
    return sum(o.flops * o.times for o in self.work.step)

  @property
  def accessed_bytes(self) -> int:
    return sum(o.accessed_bytes * o.times for o in self.work.step)

  @property
  def hbm_bytes(self) -> int:
    return sum(o.hbm_bytes * o.times for o in self.work.step)

  @property
  def mask_bytes(self) -> int:
    """Bytes that only the gradient mask accesses."""
    return sum(o.mask_bytes * o.times for o in self.work.step)

  @property
  def event_bytes(self) -> int:
    """Bytes that a pruning event accesses."""
    return sum(o.accessed_bytes * o.times for o in self.work.event)

  @property
  def event_hbm_bytes(self) -> int:
    return sum(o.hbm_bytes * o.times for o in self.work.event)

  def collectives(self) -> list[Collective]:
    """Those of the program's text, each once, with those of the event."""
    return [o.collective for o in (*self.work.step, *self.work.event) if o.collective]

  def collective_totals(self) -> dict[str, dict[str, int]]:
    """Maps each kind of collective to how many a step without an event runs, and to their bytes."""
    totals: dict[str, dict[str, int]] = {}
    for operation in self.work.step:
      if operation.collective:
        found = totals.setdefault(operation.collective.kind, {"count": 0, "bytes": 0})
        found["count"] += operation.times
        found["bytes"] += operation.times * operation.collective.num_bytes
    return dict(sorted(totals.items()))


@dataclasses.dataclass(frozen=True)
class RunFigures:
  """The run that the steps belong to.

  Attributes:
    frequency: P, steps between pruning events.
    steps, num_events: of the run.
    num_devices: jax devices of all slices.
    tokens_per_step: of all devices.
    model_flops: of a step on one device, by MaxText's formula.
    expected_flops: what the program of a dense step should count; None where we have no formula.
  """

  frequency: int
  steps: int
  num_events: int
  num_devices: int
  tokens_per_step: int
  model_flops: float
  expected_flops: float | None

  def utilisation(self, seconds: float, where: Slice) -> float:
    """Model FLOPs of a step of so many seconds over those that the chip could compute in this time (MFU)."""
    return self.model_flops / (seconds * where.device.peak_flops)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The train steps of one config on one topology.

  Attributes:
    topology: a name that MaxText knows.
    sparsity: S of the config.
    run: the run that they belong to.
    where: the devices.
    dense: the step of stock MaxText.
    sparse: the step as it runs; its `work.event` is what a step with a pruning event does beyond it.
  """

  topology: str
  sparsity: float
  run: RunFigures
  where: Slice
  dense: Step
  sparse: Step

  @property
  def fits(self) -> bool:
    """Whether the sparse step fits into the memory of the devices."""
    return not self.sparse.out_of_memory

  @property
  def dense_time(self) -> StepTime:
    return time_of(self.dense.work.step, self.where)

  @property
  def event_time(self) -> StepTime:
    """Time that an event adds to its step, as if all weights lay in HBM.

    The compiler keeps weights of a few megabytes in the memory of the core, where an event takes less.
    """
    in_hbm = (dataclasses.replace(o, hbm_bytes=o.accessed_bytes) for o in self.sparse.work.event)
    return time_of(in_hbm, self.where)

  @property
  def mask_seconds(self) -> float:
    """Time that the gradient mask adds to every step, as if all weights lay in HBM."""
    return self.sparse.mask_bytes / self.where.device.hbm_bandwidth

  def added_collectives(self) -> list[Collective]:
    """The collectives of the sparse step that the dense step does not have."""
    return added(self.dense.collectives(), self.sparse.collectives())

  def utilisation(self) -> float:
    """Model FLOPs of a dense step over those that its time at peak rates would allow: the most that MFU can be."""
    return self.run.utilisation(self.dense_time.seconds, self.where)

  def pace(self, utilisation: float | None = None) -> Pace:
    """How fast the run trains: at peak rates, or with a dense step at a measured utilisation of model FLOPs."""
    dense = self.dense_time.seconds
    if utilisation is not None:
      dense = self.run.model_flops / (utilisation * self.where.device.peak_flops)
    num_chips = self.where.num_chips
    return Pace(dense, self.mask_seconds, self.event_time.seconds, self.run.tokens_per_step, num_chips)


def compare(
  arguments: Sequence[str], topology: str, num_slices: int, num_jobs: int, tell: Callable[[str], None]
) -> Comparison:
  """Compiles both programs, each in a process of its own.

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
  keys = parse_keys(_check(arguments, topology, num_slices))
  if not keys.is_active:
    raise ConfigError(f"sparsity={keys.sparsity}: this run is dense, give for example sparsity=0.8")
  with tempfile.TemporaryDirectory(prefix="maxtext_sparse_") as folder:

    def start(name: str) -> dict[str, Any]:
      return _compile(name, _program(name, arguments, topology, num_slices), folder, tell)

    with concurrent.futures.ThreadPoolExecutor(num_jobs) as pool:
      # The sparse program comes first, because it is the one that a bad key fails.
      pending = {name: pool.submit(start, name) for name in reversed(_PROGRAMS)}
      try:
        told = {name: future.result() for name, future in pending.items()}
      except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
  sparse = told["sparse"]
  run = RunFigures(**sparse["run"])
  steps = {name: _step(told[name]) for name in _PROGRAMS}
  return Comparison(topology, sparse["sparsity"], run, slice_of(topology, num_slices), **steps)


def compile_dense(arguments: Sequence[str], topology: str, tell: Callable[[str], None]) -> tuple[RunFigures, Step]:
  """Compiles the dense step alone, on one slice; the rest is as for `compare`."""
  _check(arguments, topology, num_slices=1)
  with tempfile.TemporaryDirectory(prefix="maxtext_sparse_") as folder:
    told = _compile("dense", _program("dense", arguments, topology, 1), folder, tell)
  return RunFigures(**told["run"]), _step(told)


def _check(arguments: Sequence[str], topology: str, num_slices: int) -> dict[str, Any]:
  """The keys that the arguments set, after all checks that need no compiler."""
  values = check_arguments([*arguments, *_target(topology, num_slices)])
  require_model(arguments)
  check_topology(topology)
  return values


def _target(topology: str, num_slices: int) -> tuple[str, str]:
  return f"compile_topology={topology}", f"compile_topology_num_slices={num_slices}"


def _program(name: str, arguments: Sequence[str], topology: str, num_slices: int) -> list[str]:
  """The arguments of one of the programs."""
  return _with_keys(arguments, [*_target(topology, num_slices), "log_config=False", *_PROGRAMS[name]])


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
  with open(text_path(out), encoding="utf-8") as file:
    return told | {"work": work_of(parse(file.read()))}


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
  if told.get("out_of_memory"):
    return Step(out_of_memory=told["out_of_memory"])
  return Step(Memory(**told["memory"]), told["work"])
