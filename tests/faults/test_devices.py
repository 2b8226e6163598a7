"""The same run on other devices: resumed on fewer, or spread over two processes."""

import socket

import numpy as np
import pytest

from tests.faults.harness import branch, EVENTS, LONG, saved_steps, saved_zeros, SAVING
from tests.hooks.harness import assert_same_leaves, NUM_PRUNABLE, Result, SPARSE

pytestmark = pytest.mark.slow

EIGHT = {"num_devices": 8, "ici_fsdp_parallelism": 4, "ici_tensor_parallelism": 2}
FEWER = {4: {"ici_fsdp_parallelism": 2, "ici_tensor_parallelism": 2}, 1: {}}


@pytest.fixture(scope="module")
def whole_on_8(nursery, out, settings):
  return nursery.train(out, "eight", **EIGHT, **settings)


@pytest.fixture(scope="module")
def stopped(nursery, out, settings):
  """A run on eight devices, killed after its checkpoint at 28."""
  child = nursery.start(out, "stopped", **EIGHT, **settings)
  assert child.wait_until(lambda: 28 in saved_steps(out, "stopped"))
  child.kill()
  return "stopped"


@pytest.mark.parametrize("num_devices", FEWER)
def test_a_run_stopped_on_8_devices_goes_on_on_fewer(nursery, out, settings, whole_on_8, stopped, num_devices):
  name = f"on_{num_devices}"
  zeros = branch(out, stopped, name, last=28)
  run = nursery.train(out, name, num_devices=num_devices, **FEWER[num_devices], **settings)
  assert [event["step"] for event in run.event_files()] == list(EVENTS)
  for event, expected in zip(run.event_files(), whole_on_8.event_files()):
    assert event["nonzero_prunable"] == expected["nonzero_prunable"]
    assert event["density"] == pytest.approx(event["target_density"], abs=1 / NUM_PRUNABLE)
  assert run.num_nonzero() == whole_on_8.num_nonzero() == NUM_PRUNABLE - round(0.8 * NUM_PRUNABLE)
  for path, is_zero in saved_zeros(zeros, run).items():
    assert is_zero.any() and not run.leaves[path][is_zero].any(), path
  losses = {row["step"]: row["learning/loss"] for row in whole_on_8.train_rows}
  np.testing.assert_allclose(run.column("learning/loss"), [losses[step] for step in run.column("step")], rtol=1e-3)


def start_two(nursery, out, name, **settings):
  """One run as two processes of one device each."""
  with socket.create_server(("127.0.0.1", 0)) as server:
    address = f"127.0.0.1:{server.getsockname()[1]}"
  place = lambda i: {"TEST_COORDINATOR": address, "TEST_NUM_PROCESSES": "2", "TEST_PROCESS_ID": str(i)}
  return [nursery.start(out, name, extra=place(i), **settings) for i in (0, 1)]


def test_two_processes_are_one_run(nursery, out):
  """The same program on each of two devices. Bit-identity may be asked: a sum of two numbers has one order only."""
  settings = SPARSE | {"per_device_batch_size": 4, "ici_fsdp_parallelism": 2}
  one = nursery.train(out, "one_process", num_devices=2, **settings)
  for child in start_two(nursery, out, "two_processes", **settings):
    assert child.wait(timeout=180) == 0, child.log.read_text()[-3000:]
  two = Result(out, "two_processes")
  assert len(two.event_files()) == 4
  assert two.event_files() == one.event_files(), "densities, counts and thresholds"
  assert [learned(row) for row in two.train_rows] == [learned(row) for row in one.train_rows]
  assert_same_leaves(one, two)


def test_a_preempted_host_stops_all_with_a_status_that_restarts_them(nursery, out):
  """SIGTERM to one of two: both save, end with 42, and end as the undisturbed run when they are started again."""
  settings = LONG | SAVING | {"per_device_batch_size": 4, "ici_fsdp_parallelism": 2}
  whole = nursery.train(out, "undisturbed", num_devices=2, **settings)
  children = start_two(nursery, out, "preempted", call="main", **settings)
  assert children[0].wait_until(lambda: 12 in saved_steps(out, "preempted"))
  children[1].terminate()
  for child in children:
    assert child.wait(timeout=180) == 42, child.log.read_text()[-3000:]
    assert "training stopped after step" in child.log.read_text()
    assert "start it again with the same run_name to go on" in child.log.read_text()
  assert 12 <= saved_steps(out, "preempted")[-1] < 59
  for child in start_two(nursery, out, "preempted", **settings):
    assert child.wait(timeout=180) == 0, child.log.read_text()[-3000:]
  resumed = Result(out, "preempted")
  assert resumed.event_files() == whole.event_files()
  assert_same_leaves(whole, resumed)


def learned(row):
  return {key: value for key, value in row.items() if key != "run_name" and not key.startswith("perf/")}
