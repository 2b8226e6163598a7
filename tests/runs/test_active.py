"""Sums of active weights: from events, from the record of a run, and from the schedule where there is no record."""

import dataclasses

import pytest

from maxtext_sparse.runs.active import active_sum, ActiveSum
from maxtext_sparse.runs.record import Plan, RunRecord
from maxtext_sparse.schedule import Schedule

# Keeps 500 and 200 of 1000 weights.
PLAN = Plan(Schedule(12, (3, 6), (0.5, 0.2)), ("kernel",), 1000)


@pytest.fixture
def record(tmp_path):
  return RunRecord(str(tmp_path))


def write_event(record, step, num_left, **extra):
  record.write_event(step, {"density": 0.0, "nonzero_prunable": num_left, "threshold": 0.1, "matrices": {}} | extra)


def test_an_event_is_first_seen_by_the_next_steps_forward_pass():
  known = ActiveSum(total=0, since=0, active=1000).after_event(3, 500)
  assert known.over(4) == 4 * 1000
  assert known.over(8) == 4 * 1000 + 4 * 500


@pytest.mark.parametrize("num_steps", range(1, 13))
def test_without_a_record_the_schedule_counts(record, num_steps):
  expected = PLAN.schedule.active_sum(num_steps, 1000)
  assert active_sum(PLAN, record, before=num_steps - 1).over(num_steps) == expected


def test_counts_on_record_go_before_the_schedules(record):
  write_event(record, 3, 480, active_sum=4000)
  assert active_sum(PLAN, record, before=6) == ActiveSum(4000, 4, 480)
  # The record of the event at 6 is missing: as scheduled.
  assert active_sum(PLAN, record, before=12) == ActiveSum(4000 + 3 * 480, 7, 200)
  write_event(record, 6, 190, active_sum=4000 + 3 * 480)
  assert active_sum(PLAN, record, before=12).over(12) == 4000 + 3 * 480 + 5 * 190


def test_an_event_never_brings_weights_back(record):
  write_event(record, 3, 150, active_sum=4000)
  assert active_sum(PLAN, record, before=12).active == 150


def test_a_run_that_began_late_counts_from_there(record):
  late = dataclasses.replace(PLAN, begin_step=5, begin_active=900)
  assert active_sum(late, record, before=12).over(12) == 7 * 900 + 5 * 200


def test_events_before_another_schedule_stay_as_recorded(record):
  write_event(record, 2, 700, active_sum=3000)
  later = dataclasses.replace(PLAN, begin_step=5, begin_active=700)
  assert active_sum(later, record, before=12).over(12) == 3 * 1000 + 4 * 700 + 5 * 200


def test_a_record_of_an_older_version_has_no_sum(record):
  write_event(record, 3, 480)
  assert active_sum(PLAN, record, before=6) == ActiveSum(4000, 4, 500)
