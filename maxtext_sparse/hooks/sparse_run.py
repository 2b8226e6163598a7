"""What the hooks share: the sparse run that belongs to a MaxText config, and the train step that is being traced."""

from collections.abc import Iterator, Sequence
import contextlib
import contextvars
import dataclasses
from typing import Any
import weakref

import jax

from maxtext_sparse.config import ConfigError, keys_of, run_steps, SparsityKeys
from maxtext_sparse.hooks.monitor import Monitor
from maxtext_sparse.pruning.prunable import Parameter, select_prunable
from maxtext_sparse.schedule import build_schedule, Schedule


@dataclasses.dataclass
class SparseRun:
  """What one config's run prunes and when."""

  keys: SparsityKeys
  schedule: Schedule
  parameters: tuple[Parameter, ...]
  _monitor: Monitor | None = None

  def __post_init__(self):
    self._paths = frozenset(p.path for p in self.parameters)

  def is_prunable(self, path: str) -> bool:
    return path in self._paths

  @property
  def monitor(self) -> Monitor:
    """The host's view, which exists once training has been set up."""
    assert self._monitor is not None, "training was set up without the hook"
    return self._monitor

  @monitor.setter
  def monitor(self, monitor: Monitor) -> None:
    self._monitor = monitor

  @property
  def num_prunable(self) -> int:
    return sum(p.size for p in self.parameters)


_runs: "weakref.WeakKeyDictionary[Any, SparseRun]" = weakref.WeakKeyDictionary()


def begin(config: Any, keys: SparsityKeys, parameters: Sequence[Parameter]) -> SparseRun:
  """Registers the run of a config; the latest optimizer built for it counts."""
  trainable = config.get_keys().get("trainable_parameters_mask") or ()
  run = SparseRun(keys, build_schedule(keys, run_steps(config.get_keys())), select_prunable(parameters, keys, trainable))
  _runs[config] = run
  return run


def run_of(config: Any) -> SparseRun | None:
  """The run of a config, None where the plugin is inert."""
  run = _runs.get(config)
  assert run is not None or not keys_of(config).is_active, "the optimizer of a sparse run was built without the hook"
  return run


@dataclasses.dataclass
class StepTrace:
  """A train step being traced: the step counter going in, the event's threshold coming out."""

  step: jax.Array
  threshold: jax.Array | None = None


_trace: contextvars.ContextVar[StepTrace | None] = contextvars.ContextVar("maxtext_sparse_step", default=None)


@contextlib.contextmanager
def tracing(step: jax.Array) -> Iterator[StepTrace]:
  trace = StepTrace(step)
  token = _trace.set(trace)
  try:
    yield trace
  finally:
    _trace.reset(token)


def current_trace() -> StepTrace:
  trace = _trace.get()
  if trace is None:
    raise ConfigError("sparsity: this trainer has a train step of its own, use pre-training or train_sft_native")
  return trace
