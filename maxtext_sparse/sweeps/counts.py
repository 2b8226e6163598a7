"""How many prunable weights were active in a finished run: the mean over its steps, and the number at its end.

A run writes its plan, and after each event the weights that it then counted (`runs/record.py`). These are the real
numbers. They differ from the scheduled ones if, for example, some weights were zero from the start, or if the run went on
with another schedule or from a checkpoint of another run.
"""

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
  """The counts of a finished sparse run. They are those of its metrics `average_params` and `nonzero_prunable`.

  Args:
    manifest: the run's sweep.
    run: the run, whose folder may be in a bucket.
    schedule: what the run's config asks for, which counts if the folder has no record of the run.

  Raises:
    ConfigError: the record is damaged, or a `hold` run did not write down how many weights it has.
  """
  record = RunRecord(manifest.run_directory(run), is_writer=False)
  plan = record.read_plan() or Plan(schedule, (), run.num_prunable)
  event = record.last_event(before=run.steps)
  if event is None or "active_sum" not in event:  # nothing was counted, or an older version did not write the sum
    return _scheduled(manifest, run, plan)
  # The event at step t acts in the update of t. The sum is over the forward passes 0..t, and the next one is the first
  # with the weights that the event left.
  total, since, active = event["active_sum"], event["step"] + 1, event["nonzero_prunable"]
  if plan.begin_step > since:  # The run went on with another schedule, none of whose events is due yet.
    total += active * (plan.begin_step - since)
    since, active = plan.begin_step, _active_at_begin(manifest, run, plan)
  return ActiveCounts((total + active * (run.steps - since)) / run.steps, active)


def _scheduled(manifest: Manifest, run: Run, plan: Plan) -> ActiveCounts:
  """The counts that the plan asks for. Events before the plan came into force did not happen."""
  begin_active, num_prunable = _active_at_begin(manifest, run, plan), plan.num_prunable
  total = plan.schedule.active_sum(run.steps, num_prunable, plan.begin_step, begin_active)
  events = plan.events_before(run.steps)
  return ActiveCounts(total / run.steps, plan.keep_count(events[-1]) if events else begin_active)


def _active_at_begin(manifest: Manifest, run: Run, plan: Plan) -> int:
  """Number of active weights when the plan came into force."""
  if plan.begin_active is not None:
    return plan.begin_active
  if plan.schedule.event_steps:
    return plan.num_prunable
  # A `hold` run has no events and always the same number of weights.
  train, _ = latest(manifest, run)
  if "pruning/nonzero_prunable" not in train:
    raise ConfigError(f"run {run.name}: its metrics have no pruning/nonzero_prunable, so its weights are not counted")
  return int(train["pruning/nonzero_prunable"])
