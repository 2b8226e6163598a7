"""What a run reports: every metric in every sink, a complete file, a final eval, densities per matrix."""

import importlib.metadata
import math

import pytest

from tests.hooks.harness import event_scalars, NUM_PRUNABLE, SPARSE

KEEP = [NUM_PRUNABLE - round((1 - 0.2 ** (i / 4)) * NUM_PRUNABLE) for i in range(5)]
# Active weights in the forward pass of each step: an event at t is first seen at t+1.
ACTIVE = [KEEP[0]] * 5 + [KEEP[1]] * 3 + [KEEP[2]] * 3 + [KEEP[3]] * 3 + [KEEP[4]] * 6


@pytest.mark.release
def test_the_file_has_one_row_per_step_in_order_although_eval_ran(sparse_run):
  assert [row["step"] for row in sparse_run.train_rows] == list(range(20))


@pytest.mark.release
def test_eval_rows_include_the_last_step_which_the_interval_does_not_hit(sparse_run):
  # 0.2.3 evaluates after the multiples of the interval, later releases from eval_start_step on.
  expected = [5, 11, 17, 19] if importlib.metadata.version("maxtext") == "0.2.3" else [0, 6, 12, 18, 19]
  assert [row["step"] for row in sparse_run.eval_rows] == expected


def test_the_last_step_is_evaluated_in_dense_runs_too(worker, out):
  run = worker.train(out, "dense_eval", eval_interval=50, eval_steps=1)
  assert [row["step"] for row in run.eval_rows] == [0, 19]


def test_averages_and_flops_are_exact_sums_over_the_event_list(sparse_run):
  tokens = 8 * 32
  for step, row in enumerate(sparse_run.train_rows):
    assert row["pruning/average_params"] == sum(ACTIVE[: step + 1]) / (step + 1)
    assert row["pruning/effective_flops"] == 6 * tokens * sum(ACTIVE[: step + 1])


@pytest.mark.release
def test_every_train_row_has_every_metric(sparse_run):
  names = {
    "prunable",
    "nonzero_prunable",
    "density",
    "target_density",
    "threshold",
    "average_params",
    "effective_flops",
    "min_matrix_density",
  }
  for row in sparse_run.train_rows:
    assert {key.removeprefix("pruning/") for key in row if key.startswith("pruning/")} == names
    assert row["pruning/density"] == row["pruning/nonzero_prunable"] / row["pruning/prunable"]


def test_the_threshold_is_the_last_events_and_rises(sparse_run):
  thresholds = sparse_run.column("pruning/threshold")
  assert thresholds[:4] == [0] * 4
  events = [thresholds[t] for t in (4, 7, 10, 13)]
  assert 0 < events[0] < events[1] < events[2] < events[3]
  assert thresholds[13:] == [events[3]] * 7


@pytest.mark.release
def test_each_event_is_recorded_with_the_density_of_every_layer(sparse_run):
  events = sparse_run.event_files()
  assert [event["step"] for event in events] == [4, 7, 10, 13]
  for event, kept in zip(events, KEEP[1:]):
    assert event["nonzero_prunable"] == kept
    assert "decoder/layers/mlp/wi_0/kernel[1]" in event["matrices"]
    assert len(event["matrices"]) == 7 * 2 + 1
  last_row = sparse_run.train_rows[-1]
  assert last_row["pruning/min_matrix_density"] == pytest.approx(min(events[-1]["matrices"].values()))


@pytest.mark.release
def test_the_step_line_shows_the_density(worker, sparse_run):
  lines = [line for line in worker.log.read_text().splitlines() if "completed step: 19" in line and "density" in line]
  assert any("density: 0.2000" in line for line in lines)


def test_a_thin_matrix_is_named_in_a_warning(worker, sparse_run):
  thin = [name for name, density in sparse_run.event_files()[-1]["matrices"].items() if density < 0.01]
  assert thin, "this tiny model is known to lose its query kernels"
  assert f"left under 1 % of: {thin[0]}" in worker.log.read_text() or thin[0] in worker.log.read_text()


def test_tensorboard_gets_the_metrics(sparse_run):
  (events,) = (sparse_run.folder / "tensorboard").rglob("events.out.tfevents*")
  density = [value for tag, _, value in event_scalars(events.read_bytes()) if tag == "pruning/density"]
  assert len(density) == 20
  assert math.isclose(density[-1], KEEP[4] / NUM_PRUNABLE, rel_tol=1e-6)


def test_cubic_and_linear_schedules_are_followed_step_by_step(worker, out):
  shapes = {"cubic": lambda x: 1 - 0.8 + 0.8 * (1 - x) ** 3, "linear": lambda x: 1 - 0.8 * x}
  for shape, density in shapes.items():
    run = worker.train(out, f"shape_{shape}", pruning_schedule=shape, **SPARSE)
    counts = [run.column("pruning/nonzero_prunable")[t] for t in (4, 7, 10, 13)]
    assert counts == [NUM_PRUNABLE - round((1 - density(i / 4)) * NUM_PRUNABLE) for i in (1, 2, 3, 4)]
