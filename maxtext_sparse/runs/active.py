"""Active prunable weights, summed over the steps of a run: what average parameters and effective FLOPs are made of.

A census after each event counts the weights that are left. Between two events no count changes, so these few integers
give the number in every forward pass. A run of 8 steps with 1000 prunable weights, whose event at step 3 leaves 500:

  forward pass  0     1     2     3     4    5    6    7
  active        1000  1000  1000  1000  500  500  500  500    sum 6000, average 750

The record of each event holds the sum up to and with its step. So a resumed run, and everyone who reads a run's folder,
goes on from the last record, and gets the number that a run without interruption has.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from maxtext_sparse.runs.record import Plan, RunRecord


@dataclasses.dataclass(frozen=True)
class ActiveSum:
  """Active prunable weights, summed over forward passes in exact integers.

  Attributes:
    total: the sum over steps 0..since-1.
    since: the first step that `total` leaves out.
    active: active weights in each forward pass from step `since` on, until the next event.
  """

  total: int
  since: int
  active: int

  def over(self, num_steps: int) -> int:
    """The sum over steps 0..num_steps-1, with no event from `since` on."""
    assert num_steps >= self.since
    return self.total + self.active * (num_steps - self.since)

  def after_event(self, step: int, num_active: int) -> "ActiveSum":
    """With an event at `step` that left `num_active` weights. The forward pass of step + 1 is the first to see it."""
    return ActiveSum(self.over(step + 1), step + 1, num_active)


def active_sum(plan: Plan, record: RunRecord, before: int) -> ActiveSum:
  """The sum that a run's folder knows of: exact up to its last record before a step, as scheduled from there on.

  Events have no record if the run was killed just before it wrote it, or if the run goes on from a checkpoint of
  another folder. Steps before the plan came into force count as the state at that step, unless there is a record of them.

  Args:
    plan: what the run follows.
    record: the run's folder.
    before: the step up to which events are counted.

  Raises:
    ConfigError: the record is damaged.
  """
  known = _on_record(plan, record.last_event(before))
  for step in plan.events_before(before):
    if step >= known.since:
      known = known.after_event(step, min(known.active, plan.keep_count(step)))
  return known


def _on_record(plan: Plan, event: Mapping[str, Any] | None) -> ActiveSum:
  begin_active = plan.num_prunable if plan.begin_active is None else plan.begin_active
  known = ActiveSum(begin_active * plan.begin_step, plan.begin_step, begin_active)
  if event is None or "active_sum" not in event:  # records of older versions lack it
    return known
  known = ActiveSum(event["active_sum"], event["step"] + 1, event["nonzero_prunable"])
  if known.since < plan.begin_step:  # another schedule came into force since
    known = ActiveSum(known.over(plan.begin_step), plan.begin_step, begin_active)
  return known
