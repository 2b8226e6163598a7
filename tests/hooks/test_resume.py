"""Checkpoints: killed runs go on bit for bit, and dense, sparse and stock MaxText read each other's."""

import json
import os
import signal
import time

import numpy as np
import pytest

from tests.hooks.harness import arguments, assert_same_leaves, NUM_PRUNABLE, SPARSE, Worker

SAVING = {"enable_checkpointing": True, "checkpoint_period": 4, "async_checkpointing": False}
LONG = {"steps": 60, "sparsity": 0.8, "gmp_start_step": 8, "gmp_end_step": 50, "gmp_pruning_frequency": 3}


def checkpoints(out, name):
  folder = out / name / "checkpoints"
  return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit()) if folder.exists() else []


def kill_when(process: Worker, is_due, timeout=240):
  """kill -9, no clean-up of any kind."""
  deadline = time.monotonic() + timeout
  while not is_due():
    assert time.monotonic() < deadline, process.log.read_text()[-2000:]
    assert process._process.poll() is None
    time.sleep(0.005)
  os.kill(process._process.pid, signal.SIGKILL)
  process._process.wait()


@pytest.mark.release
def test_a_run_killed_in_the_middle_of_pruning_ends_bit_identical(worker, out, text_data, tmp_path):
  settings = text_data | SAVING | LONG
  whole = worker.train(out, "whole", **settings)
  victim = Worker(1, tmp_path / "log")
  request = {"call": "train", "plugin": True, "args": arguments(out, "killed", per_device_batch_size=8, **settings)}
  victim._process.stdin.write(json.dumps(request) + "\n")
  victim._process.stdin.flush()
  kill_when(victim, lambda: any(step >= 20 for step in checkpoints(out, "killed")))
  victim.close()
  assert checkpoints(out, "killed")[-1] < 50, "the run was over before it was killed"
  resumed = worker.train(out, "killed", **settings)
  assert_same_leaves(whole, resumed)
  assert_same_rows(whole, resumed)


def assert_same_rows(whole, resumed):
  """MaxText saves a checkpoint before it flushes the rows of the last two steps, which a kill just then loses."""
  ignored = ("run_name", "pruning/threshold")
  by_step = lambda rows: {r["step"]: {k: v for k, v in r.items() if k not in ignored and "perf/" not in k} for r in rows}
  expected, found = by_step(whole.train_rows), by_step(resumed.train_rows)
  lost = sorted(expected.keys() - found.keys())
  assert len(lost) <= 2 and len(found) == len(resumed.train_rows)
  assert found == {step: row for step, row in expected.items() if step not in lost}
  without_threshold = lambda run: [{k: v for k, v in e.items() if k != "threshold"} for e in run.event_files()]
  assert without_threshold(resumed) == without_threshold(whole)


def test_a_dense_checkpoint_goes_on_sparse_with_its_optimizer_state(worker, out):
  worker.train(out, "dense_first", steps=9, learning_rate_schedule_steps=20, **SAVING)
  whole = worker.train(out, "sparse_whole", **SAVING, **(SPARSE | {"gmp_start_step": 10, "gmp_end_step": 16}))
  os.rename(out / "dense_first", out / "dense_to_sparse")
  branched = worker.train(out, "dense_to_sparse", **SAVING, **(SPARSE | {"gmp_start_step": 10, "gmp_end_step": 16}))
  assert branched.train_rows[0]["step"] == 9, "the dense checkpoint was not taken up"
  np.testing.assert_allclose(branched.column("learning/loss"), whole.column("learning/loss")[9:], rtol=1e-5)
  assert branched.num_nonzero() == whole.num_nonzero() == NUM_PRUNABLE - round(0.8 * NUM_PRUNABLE)


def test_a_dense_checkpoint_resumed_between_events_catches_up(worker, out):
  worker.train(out, "catch_up", steps=9, learning_rate_schedule_steps=20, **SAVING)
  run = worker.train(out, "catch_up", **SAVING, **SPARSE)
  keep = {i: NUM_PRUNABLE - round((1 - 0.2 ** (i / 4)) * NUM_PRUNABLE) for i in range(5)}
  counts = [row["pruning/nonzero_prunable"] for row in run.train_rows if row["step"] >= 9]
  assert counts == [keep[0]] * 1 + [keep[3]] * 3 + [keep[4]] * 7
  active = [keep[0]] * 11 + [keep[3]] * 3 + [keep[4]] * 6
  assert run.train_rows[-1]["pruning/average_params"] == sum(active) / 20


@pytest.mark.release
def test_stock_maxtext_resumes_and_evaluates_a_sparse_checkpoint(worker, out):
  sparse = worker.train(out, "to_stock", **SAVING, **(SPARSE | {"steps": 18}), eval_interval=18, eval_steps=2)
  stock = worker.train(out, "to_stock", plugin=False, steps=20, eval_interval=1, eval_steps=2, **SAVING)
  assert stock.leaves.keys() == sparse.leaves.keys()
  assert stock.train_rows[-1]["step"] == 19 and stock.eval_rows, "stock MaxText did not go on and evaluate"
  assert stock.eval_rows[-1]["eval/avg_loss"] < sparse.train_rows[0]["learning/loss"]


@pytest.fixture(scope="module")
def finished(worker, out):
  worker.train(out, "guarded", **SAVING, **(SPARSE | {"steps": 16}))
  return "guarded"


def test_a_resume_that_would_shift_the_schedule_is_refused_with_both_shown(worker, out, finished):
  reply = worker.train_error(out, finished, per_device_batch_size=8, **SAVING, **(SPARSE | {"gmp_end_step": 16}))
  assert reply["error"] == "ConfigError"
  assert "4 events at 4..13" in reply["message"] and "5 events at 4..16" in reply["message"]
  assert "gmp_reschedule=True" in reply["message"]


def test_a_resume_without_sparsity_is_refused_because_zeros_would_regrow(worker, out, finished):
  reply = worker.train_error(out, finished, per_device_batch_size=8, **SAVING)
  assert reply["error"] == "ConfigError"
  assert reply["message"].startswith("sparsity=0: this run began with geometric, 4 events at 4..13")


def test_hold_keeps_the_zeros_of_a_checkpoint(worker, out, finished):
  before = dict(np.load(out / f"{finished}.npz"))
  held = worker.train(out, finished, steps=20, pruning_method="hold", gmp_reschedule=True, **SAVING)
  for name, weight in held.prunable().items():
    np.testing.assert_array_equal(weight == 0, before[name] == 0, err_msg=name)


def test_a_resume_past_the_last_event_with_dense_weights_is_an_error(worker, out):
  worker.train(out, "too_late", steps=15, learning_rate_schedule_steps=20, **SAVING)
  reply = worker.train_error(out, "too_late", per_device_batch_size=8, **SAVING, **SPARSE)
  assert reply["error"] == "RunError"
  assert "density 1.000000 is above the target 0.2" in reply["message"]


def test_a_run_whose_data_ends_early_is_not_a_success(worker, out, text_data):
  reply = worker.train_error(out, "short_data", per_device_batch_size=8, **text_data, **(SPARSE | {"steps": 100_000}))
  assert reply["error"] == "RunError"
  assert reply["message"].startswith("steps=100000: training stopped after step")
