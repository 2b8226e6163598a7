"""The host's view of a run: metrics between events, records after a kill, refusals. No MaxText, real arrays."""

import jax.numpy as jnp
import numpy as np
import pytest

from maxtext_sparse.errors import RunError, StoppedError
from maxtext_sparse.hooks.monitor import Monitor
from maxtext_sparse.pruning.census import PendingCensus
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.runs.record import Plan, RunRecord
from maxtext_sparse.schedule import Schedule

LAYERS = Parameter("layers/kernel", (2, 4, 5), layer_axes=(0,))
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
  """Steps as MaxText takes them: the update, then the metrics of the step before it is overtaken."""
  scalars = {}
  for step in range(first, last + 1):
    live = 40 if step < 3 else 20 if step < 6 else 10
    monitor.observe(step, state(live))
    scalars = monitor.metrics(step, jnp.float32(0.125) if SCHEDULE.is_event(step) else jnp.float32(0))
  return scalars


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
