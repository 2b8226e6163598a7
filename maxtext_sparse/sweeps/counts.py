"""How many prunable weights were active in a finished run: the mean over its steps and the number at its end.

A run writes its schedule and, after each event, the number of weights that it then counted (`runs/record.py`). These are
the real numbers. They differ from the scheduled ones where zeros were there at the start, for example, or where a run
began late: with another schedule, or from a checkpoint of another run.
"""

from collections.abc import Mapping
import dataclasses

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.record import Plan, RunRecord
from maxtext_sparse.schedule import Schedule
from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.state import latest


@dataclasses.dataclass(frozen=True)
class ActiveCounts:
  """Numbers of active prunable weights.

  Attributes:
    average: mean over the forward passes of all steps.
    final: number after the last step.
  """

  average: float
  final: int


def count_active(manifest: Manifest, run: Run, schedule: Schedule) -> ActiveCounts:
  """The counts of a finished sparse run.

  Args:
    manifest: the run's sweep.
    run: the run, whose folder may be in a bucket.
    schedule: what the run's config asks for, which counts if the folder has no record of the run.

  Raises:
    ConfigError: the record is damaged, or a `hold` run did not write down how many weights it has.
  """
  record = RunRecord(manifest.run_directory(run), is_writer=False)
  plan = record.read_plan() or Plan(schedule, (), run.num_prunable)
  counted = {step: _num_left(record, step) for step in record.recorded_steps()}
  if any(step < plan.begin_step for step in counted):
    # The run changed its schedule, and its earlier events are all here.
    active = plan.num_prunable
  elif plan.schedule.event_steps or counted:
    active = plan.num_prunable if plan.begin_active is None else plan.begin_active
  else:
    active = _held(manifest, run) if plan.begin_active is None else plan.begin_active
  return _summed(active, _scheduled(plan, before=min(counted, default=run.steps)) | counted, run.steps)


def _num_left(record: RunRecord, step: int) -> int:
  """Number of weights that were left after a recorded event."""
  try:
    return int((record.read_event(step) or {})["nonzero_prunable"])
  except (ValueError, KeyError, TypeError) as error:
    reason = f"{type(error).__name__}: {error}"
    raise ConfigError(f"{record.directory}: the record of the event at step {step} is damaged ({reason})") from error


def _scheduled(plan: Plan, before: int) -> dict[int, int]:
  """Step -> weights left, for events of the schedule that have no record because they come before the first that has.

  They were over when the run began in this folder: it started from a checkpoint that was as sparse as they ask for.
  """
  keep_counts = zip(plan.schedule.event_steps, plan.schedule.keep_counts(plan.num_prunable))
  return {step: keep for step, keep in keep_counts if plan.begin_step <= step < before}


def _held(manifest: Manifest, run: Run) -> int:
  """Number of weights that are not zero in a `hold` run. It has no events, and the number never changes."""
  train, _ = latest(manifest, run)
  if "pruning/nonzero_prunable" not in train:
    raise ConfigError(f"run {run.name}: its metrics have no pruning/nonzero_prunable, so its weights are not counted")
  return int(train["pruning/nonzero_prunable"])


def _summed(active: int, events: Mapping[int, int], steps: int) -> ActiveCounts:
  """Counts of a run that begins with `active` weights; `events` are step -> weights left, in the order of the steps."""
  total, since = 0, 0
  for step, left in events.items():
    # The event acts in the update of its step, so the forward pass of the next step is the first with `left` weights.
    total += active * (step + 1 - since)
    active, since = left, step + 1
  return ActiveCounts((total + active * (steps - since)) / steps, active)
