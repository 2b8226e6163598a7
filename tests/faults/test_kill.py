"""kill -9 at any moment, resume in a new process: the run ends as if nothing had happened."""

import random
import time

import pytest

from tests.faults.harness import ASYNC, EVENTS, LONG, saved_steps, unfinished_saves, written_rows
from tests.hooks.harness import assert_same_leaves, Result

pytestmark = pytest.mark.slow

SAVE_CYCLE = 0.13  # seconds for 4 steps and the save after them, three quarters of it the save


def kill_within_a_cycle(child, out, name, seed):
  """At a random time of a random save cycle: within a save, an event, or between."""
  rng = random.Random(seed)
  rows, delay = rng.randrange(1, 53), rng.uniform(0, SAVE_CYCLE)
  assert child.wait_until(lambda: written_rows(out, name) >= rows), child.log.read_text()[-3000:]
  time.sleep(delay)
  child.kill()


def kill_after_commit(child, out, name, step):
  """Between a save and the rows of the last two steps, which MaxText writes after it."""
  assert child.wait_until(lambda: step in saved_steps(out, name)), child.log.read_text()[-3000:]
  child.kill()


def assert_nothing_is_lost(resumed, whole, restored_steps):
  """Weights, optimizer state, events and rows; but a kill after a save may take the rows of the last two steps.

  Where one of these was an event, its threshold is gone; its counts and densities are not.
  """
  assert_same_leaves(whole, resumed)
  steps = resumed.column("step")
  assert steps == sorted(set(steps))
  lost = set(range(LONG["steps"])) - set(steps)
  assert lost <= {step - i for step in restored_steps for i in (0, 1)}
  knows = lambda step: max((event for event in EVENTS if event <= step), default=None) not in lost
  assert [comparable(row, knows) for row in resumed.train_rows] == [
    comparable(row, knows) for row in whole.train_rows if row["step"] not in lost
  ]
  assert [comparable(e, knows) for e in resumed.event_files()] == [comparable(e, knows) for e in whole.event_files()]


def comparable(record, knows_threshold):
  times_and_names = lambda key: key == "run_name" or key.startswith("perf/")
  is_gone = lambda key: key.endswith("threshold") and not knows_threshold(record["step"])
  return {key: value for key, value in record.items() if not times_and_names(key) and not is_gone(key)}


KILLS = [(kill_within_a_cycle, seed) for seed in range(14)] + [(kill_after_commit, n) for n in (8, 12, 20, 24, 32, 36)]


@pytest.mark.parametrize("kill, where", KILLS, ids=lambda value: getattr(value, "__name__", value))
def test_a_killed_run_resumes_bit_identical(nursery, out, settings, whole, kill, where):
  name = f"{kill.__name__}_{where}"
  kill(nursery.start(out, name, **settings), out, name, where)
  saved = saved_steps(out, name)
  print(f"{name}: rows {written_rows(out, name)}, saved {saved[-1:]}, half-written {unfinished_saves(out, name)}")
  assert saved[-1] < LONG["steps"] - 1, "the run was over before it was killed"
  assert_nothing_is_lost(nursery.train(out, name, **settings), whole, saved[-1:])


def test_a_run_killed_again_and_again_ends_bit_identical(nursery, out, settings, whole):
  restored = []
  for step in (0, 12, 20, 36, 48):
    kill_after_commit(nursery.start(out, "again", **settings), out, "again", step)
    restored.append(saved_steps(out, "again")[-1])
  assert_nothing_is_lost(nursery.train(out, "again", **settings), whole, restored)


def test_a_run_killed_within_its_first_save_starts_again(nursery, out, settings, whole):
  child = nursery.start(out, "first", **settings)
  assert child.wait_until(lambda: unfinished_saves(out, "first"))
  child.kill()
  assert saved_steps(out, "first") == [], "the save was over before the run was killed"
  assert_nothing_is_lost(nursery.train(out, "first", **settings), whole, [])


def test_asynchronous_saves_leave_the_same_run(nursery, out, settings, whole):
  run = nursery.train(out, "async", **(settings | ASYNC))
  assert saved_steps(out, "async") == saved_steps(out, "whole")
  assert_nothing_is_lost(run, whole, [])


@pytest.mark.parametrize("seed", range(20, 24))
def test_a_run_with_asynchronous_saves_killed_resumes_bit_identical(nursery, out, settings, whole, seed):
  name = f"async_{seed}"
  kill_within_a_cycle(nursery.start(out, name, **(settings | ASYNC)), out, name, seed)
  saved = saved_steps(out, name)
  print(f"{name}: rows {written_rows(out, name)}, saved {saved[-1:]}, half-written {unfinished_saves(out, name)}")
  assert_nothing_is_lost(nursery.train(out, name, **(settings | ASYNC)), whole, saved[-1:])


# bf16 weights hold exact zeros at initialisation, more than the first events are to prune: these events overshoot.
OFTEN = {"sparsity": 0.2, "gmp_start_step": 0, "gmp_pruning_frequency": 1, "weight_dtype": "bfloat16"}


@pytest.mark.parametrize("step", [8, 12, 20])
def test_counts_of_two_events_between_a_save_and_its_rows_are_not_lost(nursery, out, settings, step):
  """Events at every step, some of them beside their schedule: averages are still those of the undisturbed run."""
  often = settings | OFTEN
  if not (out / "often.npz").exists():
    nursery.train(out, "often", **often)
  whole, name = Result(out, "often"), f"often_{step}"
  first = whole.event_files()[0]
  assert first["nonzero_prunable"] < first["target_nonzero_prunable"], "no event overshot, so this test shows nothing"
  kill_after_commit(nursery.start(out, name, **often), out, name, step)
  resumed = nursery.train(out, name, **often)
  assert_same_leaves(whole, resumed)
  forget = lambda record: comparable(record, lambda step: False)
  assert [forget(event) for event in resumed.event_files()] == [forget(event) for event in whole.event_files()]
  rows = {row["step"]: forget(row) for row in whole.train_rows}
  assert [forget(row) for row in resumed.train_rows] == [rows[step] for step in resumed.column("step")]
