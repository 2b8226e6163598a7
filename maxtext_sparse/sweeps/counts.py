"""How many prunable weights were active in a finished run: the mean over its steps, and the number at its end.

A run writes its plan, and after each event the weights that it then counted (`runs/record.py`). These are the real
numbers. They differ from the scheduled ones if, for example, some weights were zero from the start, or if the run went on
with another schedule or from a checkpoint of another run.
"""

import dataclasses

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.active import active_sum
from maxtext_sparse.runs.record import Plan, RunRecord
from maxtext_sparse.schedule import Schedule
from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.state import folder_of, latest


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
  record = RunRecord(folder_of(manifest, run), is_writer=False)
  plan = record.read_plan() or Plan(schedule, (), run.num_prunable)
  plan = dataclasses.replace(plan, begin_active=_active_at_begin(manifest, run, plan))
  known = active_sum(plan, record, before=run.steps)
  return ActiveCounts(known.over(run.steps) / run.steps, known.active)


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
