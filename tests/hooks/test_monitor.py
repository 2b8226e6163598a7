"""The host's view of a run: metrics between events, records after a kill, refusals. No MaxText, real arrays."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from maxtext_sparse.errors import RunError, StoppedError
from maxtext_sparse.hooks.monitor import Monitor
from maxtext_sparse.pruning.census import PendingCensus
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.runs.record import Plan, RunRecord
from maxtext_sparse.schedule import Schedule

LAYERS = Parameter("layers/kernel", (2, 4, 5), stack_axes=(0,))
SCHEDULE = Schedule(12, (3, 6), (0.5, 0.25))
PLAN = Plan(SCHEDULE, (LAYERS.path,), LAYERS.size)


def state(num_live: int) -> dict:
  weights = (np.arange(LAYERS.size) < num_live).astype(np.float32).reshape(LAYERS.shape)
  return {"layers": {"kernel": jnp.asarray(weights)}}


def census(num_live: int, value: float | None = None):
  weights = state(num_live)["layers"]["kernel"]
  if value is not None:
    weights = weights.at[1, 0, 0].set(value)
  return PendingCensus([LAYERS], {LAYERS.path: weights}).result()


@pytest.fixture
def record(tmp_path):
  return RunRecord(str(tmp_path))


@pytest.fixture
def monitor(record):
  return Monitor(PLAN, [LAYERS], record, tokens_per_step=100)


def train(monitor, first: int, last: int) -> dict:
  """Steps whose metrics are written at once; the scalars of the last one."""
  scalars = {}
  for step in range(first, last + 1):
    monitor.observe(step, state(40 if step < 3 else 20 if step < 6 else 10))
    scalars = row(monitor, step)
  return scalars


def row(monitor, step: int) -> dict:
  monitor.settle(step, jnp.float32(0.125 if monitor.plan.schedule.is_event(step) else 0.0))
  return monitor.scalars(step)


def test_metrics_follow_the_events(monitor):
  monitor.begin(0, census(40))
  scalars = train(monitor, 0, 4)
  assert scalars["pruning/prunable"] == 40
  assert scalars["pruning/nonzero_prunable"] == 20
  assert scalars["pruning/density"] == scalars["pruning/target_density"] == 0.5
  assert scalars["pruning/threshold"] == 0.125
  # Forward passes 0..3 see 40 weights, pass 4 sees 20.
  assert scalars["pruning/average_params"] == (4 * 40 + 20) / 5
  assert scalars["pruning/effective_flops"] == 6 * 100 * (4 * 40 + 20)
  assert scalars["pruning/min_matrix_density"] == 0.0


def test_an_event_is_recorded_with_the_density_of_every_matrix(monitor, record):
  monitor.begin(0, census(40))
  train(monitor, 0, 3)
  event = record.read_event(3)
  assert event["nonzero_prunable"] == 20
  assert event["matrices"] == {"layers/kernel[0]": 1.0, "layers/kernel[1]": 0.0}
  assert event["threshold"] == 0.125


def test_scalars_only_read(monitor, record):
  monitor.begin(0, census(40))
  train(monitor, 0, 2)
  monitor.observe(3, state(20))
  before = monitor.scalars(2)
  assert monitor.scalars(2) == before
  assert record.read_event(3) is None, "the event is recorded when it is settled, not when a metric is read"
  monitor.settle(3, jnp.float32(0.125))
  assert record.read_event(3)["threshold"] == 0.125
  assert monitor.scalars(2) == before, "a step's row does not depend on when it is asked for"


# Events at 3, 4 and 6. The schedule keeps 20, 16 and 10 of 40 weights; zeros at initialisation make the events overshoot.
CLOSE = Plan(Schedule(12, (3, 4, 6), (0.5, 0.4, 0.25)), (LAYERS.path,), LAYERS.size)
LEFT = [40] * 3 + [18] + [15] * 2 + [9] * 6


def test_averages_are_those_of_counted_weights_where_an_event_overshoots(record, caplog):
  monitor = Monitor(CLOSE, [LAYERS], record, tokens_per_step=100)
  monitor.begin(0, census(40))
  with caplog.at_level(logging.WARNING):
    rows = as_maxtext_does(monitor, 0, 11)
  active = [40, *LEFT]  # of the forward passes: an event is first seen a step later
  averages = [sum(active[: step + 1]) / (step + 1) for step in range(12)]
  assert [rows[step]["pruning/average_params"] for step in range(12)] == averages
  assert rows[11]["pruning/effective_flops"] == 6 * 100 * sum(active[:12])
  event = record.read_event(4)
  assert (event["nonzero_prunable"], event["target_nonzero_prunable"]) == (15, 16)
  assert event["active_sum"] == sum(active[:5])
  assert "event at step 4 left 15 weights, the schedule asks for 16" in caplog.text


def test_an_exact_event_warns_of_nothing(monitor, caplog):
  monitor.begin(0, census(40))
  train(monitor, 0, 11)
  assert "the schedule asks for" not in caplog.text


def as_maxtext_does(monitor, first: int, last: int, is_killed: bool = False) -> dict[int, dict]:
  """Steps whose metrics are written during the next step. A kill comes right after the last step's checkpoint."""
  rows = {}
  for step in range(first, last + 1):
    monitor.observe(step, state(LEFT[step]))
    if is_killed and step == last:
      return rows
    if step > first:
      rows[step - 1] = row(monitor, step - 1)
  return rows | {last: row(monitor, last)}


@pytest.mark.parametrize("saved", range(11))
def test_a_killed_run_has_the_rows_and_records_of_an_undisturbed_one(tmp_path, saved):
  """Also where two events lie within the two steps whose rows the kill takes. Only thresholds may be gone."""
  whole, killed = RunRecord(str(tmp_path / "whole")), RunRecord(str(tmp_path / "killed"))
  monitor = Monitor(CLOSE, [LAYERS], whole, 100)
  monitor.begin(0, census(40))
  expected = as_maxtext_does(monitor, 0, 11)
  monitor = Monitor(CLOSE, [LAYERS], killed, 100)
  monitor.begin(0, census(40))
  rows = as_maxtext_does(monitor, 0, saved, is_killed=True)
  resumed = Monitor(CLOSE, [LAYERS], killed, 100)
  resumed.begin(saved + 1, census(LEFT[saved]))
  rows |= as_maxtext_does(resumed, saved + 1, 11)
  assert expected.keys() - rows.keys() <= {saved - 1, saved}
  for step, found in rows.items():
    assert without_threshold(found) == without_threshold(expected[step]), step
  for step in CLOSE.schedule.event_steps:
    assert without_threshold(killed.read_event(step)) == without_threshold(whole.read_event(step)), step


def without_threshold(found: dict) -> dict:
  return {key: value for key, value in found.items() if not key.endswith("threshold")}


def test_without_records_the_past_counts_as_scheduled(record):
  monitor = Monitor(CLOSE, [LAYERS], record, 100)
  monitor.begin(8, census(9))
  rows = as_maxtext_does(monitor, 8, 11)
  # The last event's count is in the mask, those of the events at 3 and 4 are gone: 20 and 16 instead of 18 and 15.
  assert rows[11]["pruning/average_params"] == (4 * 40 + 1 * 20 + 2 * 16 + 5 * 9) / 12


def test_a_record_of_an_older_version_keeps_its_threshold(record):
  older = {"density": 0.5, "target_density": 0.5, "nonzero_prunable": 20, "threshold": 0.25, "matrices": {}}
  record.write_event(3, older)
  monitor = Monitor(PLAN, [LAYERS], record, 100)
  monitor.begin(5, census(20))
  scalars = train(monitor, 5, 5)
  assert scalars["pruning/threshold"] == 0.25
  assert scalars["pruning/average_params"] == (4 * 40 + 2 * 20) / 6


def test_a_new_schedule_keeps_the_counts_of_the_old_one(record):
  monitor = Monitor(CLOSE, [LAYERS], record, 100)
  monitor.begin(0, census(40))
  as_maxtext_does(monitor, 0, 5)
  later = Plan(Schedule(12, (2, 8), (0.3, 0.1)), (LAYERS.path,), 40, begin_step=6, begin_active=15)
  for _ in range(2):  # resumed under the new schedule, killed, and resumed again
    monitor = Monitor(later, [LAYERS], record, 100)
    monitor.begin(6, census(15))
    monitor.observe(6, state(15))
    assert row(monitor, 6)["pruning/average_params"] == (4 * 40 + 18 + 15 + 15) / 7
  assert record.read_event(2) is None, "an event of the new schedule that lies before it came into force"


def test_an_event_that_a_nan_skipped_says_so_in_its_record(monitor, record):
  monitor.begin(0, census(40))
  train(monitor, 0, 2)
  weights = state(40)["layers"]["kernel"].at[1, 0, 0].set(jnp.nan)
  monitor.observe(3, {"layers": {"kernel": weights}})
  with pytest.raises(RunError, match=r"step 3: weights are not finite in layers/kernel\[1\]"):
    monitor.settle(3, jnp.float32(0))
  event = record.read_event(3)
  assert event["nonfinite"] == {"layers/kernel[1]": 1}
  assert (event["nonzero_prunable"], event["target_nonzero_prunable"]) == (40, 20)


@pytest.mark.parametrize("resume_at", [4, 5, 6])
def test_an_event_whose_record_a_kill_took_is_recorded_from_the_restored_mask(record, resume_at):
  monitor = Monitor(PLAN, [LAYERS], record, 100)
  monitor.begin(resume_at, census(20))
  event = record.read_event(3)
  assert event["nonzero_prunable"] == 20
  assert event["threshold"] is None
  assert train(monitor, resume_at, 7)["pruning/threshold"] == 0.125


def test_a_resume_keeps_the_threshold_of_the_last_event(monitor, record):
  monitor.begin(0, census(40))
  train(monitor, 0, 4)
  resumed = Monitor(PLAN, [LAYERS], record, 100)
  resumed.begin(5, census(20))
  assert train(resumed, 5, 5)["pruning/threshold"] == 0.125


def test_a_resume_drops_the_records_of_events_that_it_repeats(monitor, record):
  monitor.begin(0, census(40))
  train(monitor, 0, 7)
  assert record.read_event(6) is not None
  Monitor(PLAN, [LAYERS], record, 100).begin(5, census(20))
  assert record.read_event(6) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_the_name_of_its_layer(monitor, value):
  with pytest.raises(RunError, match=r"not finite in layers/kernel\[1\]"):
    monitor.begin(0, census(40, value))


def test_a_run_past_its_last_event_must_be_as_sparse_as_that(monitor):
  with pytest.raises(RunError, match=r"step 8: density 0\.500000 is above the target 0\.25"):
    monitor.begin(8, census(20))


def test_a_run_that_stops_early_is_no_success(monitor):
  monitor.begin(0, census(40))
  train(monitor, 0, 7)
  with pytest.raises(RunError, match="stopped after step 7"):
    monitor.finish()


def test_a_run_that_was_stopped_says_so_and_ends_with_a_status_that_restarts_it(monitor):
  monitor.begin(0, census(40))
  train(monitor, 0, 7)
  monitor.stop("Job is preempted")
  with pytest.raises(StoppedError, match=r"after step 7, .* \(Job is preempted\); start it again with the same run_name"):
    monitor.finish()
  assert StoppedError.exit_status == 42


def test_a_run_stopped_after_its_last_step_is_a_success(monitor):
  monitor.begin(0, census(40))
  train(monitor, 0, 11)
  monitor.stop("Job is preempted")
  monitor.finish()


def test_a_run_that_misses_its_target_is_no_success(monitor):
  monitor.begin(0, census(40))
  train(monitor, 0, 10)
  monitor.observe(11, state(11))
  with pytest.raises(RunError, match="11 weights are left, the target is 10"):
    monitor.finish()
