"""What the hooks share: the sparse run that belongs to a MaxText config, and the train step that is being traced.

MaxText calls its functions one by one and passes the config to almost all of them, but nothing of ours. So the hook on
`get_optimizer`, the first that sees the model, registers a `SparseRun` under the config object, and the hooks that come
later look it up there (`run_of`). Several configs, and so several runs, can live in one process.

Inside a train step the optimizer and the loss need the train state's step, which MaxText does not pass to them. The hook
on `train_step` publishes it while the step is traced (`tracing`), and collects the threshold that the optimizer reports.
"""

from collections.abc import Iterator, Sequence
import contextlib
import contextvars
import dataclasses
from typing import Any
import weakref

import jax
import pydantic

from maxtext_sparse.config import SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.hooks.monitor import Monitor
from maxtext_sparse.hooks.settings import schedule_of, Settings, values_of
from maxtext_sparse.pruning.groups import plan_pruning, PruningPlan
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.schedule import Schedule


@dataclasses.dataclass
class SparseRun:
  """What the run of one config prunes, and when.

  Attributes:
    keys: the sparsity keys.
    plan: what they prune in this model, and when.
  """

  keys: SparsityKeys
  plan: PruningPlan
  _monitor: Monitor | None = None

  @property
  def schedule(self) -> Schedule:
    """When weights are pruned, with exact totals for this model."""
    return self.plan.schedule

  @property
  def parameters(self) -> tuple[Parameter, ...]:
    """The arrays that are pruned."""
    return self.plan.parameters

  def is_prunable(self, path: str) -> bool:
    return self.plan.is_prunable(path)

  @property
  def monitor(self) -> Monitor:
    """The host's view of the run. It exists once training has been set up."""
    assert self._monitor is not None, "training was set up without the hook"
    return self._monitor

  @monitor.setter
  def monitor(self, monitor: Monitor) -> None:
    self._monitor = monitor

  @property
  def num_prunable(self) -> int:
    return self.plan.num_prunable


# A run goes when its config does.
_runs: "weakref.WeakKeyDictionary[Any, SparseRun]" = weakref.WeakKeyDictionary()


def begin(config: Any, settings: Settings, parameters: Sequence[Parameter]) -> SparseRun:
  """Registers the run of a config. If MaxText builds several optimizers for a config, the last one counts.

  Args:
    config: MaxText's `HyperParameters`.
    settings: of this config, with a schedule.
    parameters: all arrays of the model.

  Raises:
    ConfigError: the keys select no parameter, or their structure does not fit the model.
  """
  run = SparseRun(settings.keys, plan_of(config, settings, parameters))
  _runs[config] = run
  return run


def plan_of(config: Any, settings: Settings, parameters: Sequence[Parameter]) -> PruningPlan:
  """What the settings of a config prune in its model, with the arguments and errors of `begin`."""
  values = values_of(config)
  assert values is not None and settings.schedule is not None
  trainable = values.get("trainable_parameters_mask") or ()
  return plan_pruning(settings.keys, parameters, settings.schedule.steps, trainable)


def run_of(config: Any) -> SparseRun | None:
  """The run of a config. None if training is dense, or if the object is not a MaxText config.

  None too for the pydantic config of `train_dpo`, where zeros are held and there is nothing to follow.
  """
  if schedule_of(config) is None or isinstance(config, pydantic.BaseModel):
    return None
  run = _runs.get(config)
  assert run is not None, "the optimizer of a sparse run was built without the hook"
  return run


# Why a trainer is refused that does not train with MaxText's `train_step`.
OWN_STEP = (
  "this trainer has a train step of its own, from which pruning gets neither the step nor masked gradients; use "
  "pre-training or train_sft_native"
)


@dataclasses.dataclass
class StepTrace:
  """A train step that is being traced.

  Attributes:
    step: the train state's step, an int32 scalar, known to the loss and the optimizer.
    threshold: float32 scalar that the optimizer reports: the threshold of this step's event, 0 if it has none.
  """

  step: jax.Array
  threshold: jax.Array | None = None


_trace: contextvars.ContextVar[StepTrace | None] = contextvars.ContextVar("maxtext_sparse_step", default=None)


@contextlib.contextmanager
def tracing(step: jax.Array) -> Iterator[StepTrace]:
  """Publishes the step for the time in which `train_step` is traced."""
  trace = StepTrace(step)
  token = _trace.set(trace)
  try:
    yield trace
  finally:
    _trace.reset(token)


def current_trace() -> StepTrace:
  """The train step that is being traced.

  Raises:
    ConfigError: there is none, because the trainer calls the optimizer or the loss from a step of its own.
  """
  trace = _trace.get()
  if trace is None:
    raise ConfigError(f"sparsity: {OWN_STEP}")
  return trace
