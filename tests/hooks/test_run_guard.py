"""What a user meets around a run: one process at a time, a stop that keeps the work, and failures in one line."""

import json
import os
import shutil
import signal
import time

import pytest

from maxtext_sparse.runs.files import folder_lock
from tests.hooks.harness import arguments, assert_same_leaves, read_rows, SPARSE

SAVING = {"enable_checkpointing": True, "checkpoint_period": 4, "async_checkpointing": False}


@pytest.fixture(scope="module")
def finished(worker, out):
  """The name of a finished sparse run with checkpoints, and where its part of the log begins."""
  begin = worker.log.stat().st_size
  worker.train(out, "guarded_sparse", eval_interval=10, eval_steps=1, **SAVING, **SPARSE)
  return "guarded_sparse", begin


def log_since(worker, begin: int) -> str:
  return worker.log.read_bytes()[begin:].decode()


def copy_of(out, name: str, new: str) -> str:
  shutil.copytree(out / name, out / new)
  shutil.copy(out / f"{name}.jsonl", out / f"{new}.jsonl")
  return new


def checkpoints(out, name: str) -> list[int]:
  return sorted(int(path.name) for path in (out / name / "checkpoints").iterdir() if path.name.isdigit())


def test_a_run_ends_with_a_summary_that_names_its_files(worker, out, finished):
  name, begin = finished
  log = log_since(worker, begin)
  (line,) = [line for line in log.splitlines() if f"run {name} is finished: " in line]
  for part in (
    "20 steps, loss ",
    "eval loss ",
    "density 0.2",
    " average parameters, ",
    " effective FLOPs, ",
    " s in this",
  ):
    assert part in line
  assert f"  checkpoint: {out / name / 'checkpoints' / '19'}\n" in log
  assert f"  metrics: {out / f'{name}.jsonl'}\n" in log and f"  records: {out / name / 'sparsity'}\n" in log


def test_a_log_line_names_the_place_in_maxtext_that_logs(worker, finished):
  lines = [line for line in log_since(worker, finished[1]).splitlines() if "completed step" in line]
  assert len(lines) >= 20 and all(" metric_logger.py:" in line for line in lines[:20]), lines[:1]


def test_a_finished_run_has_nothing_to_do(worker, out, finished):
  name, begin = finished[0], worker.log.stat().st_size
  reply = worker.ask("train", arguments(out, name, per_device_batch_size=8, **SAVING, **SPARSE))
  assert "error" not in reply
  assert f"run {name}: nothing to do, it has finished its 20 steps" in log_since(worker, begin)
  assert "completed step" not in log_since(worker, begin)


def test_a_second_process_in_the_folder_of_a_run_is_refused(worker, out, finished):
  name = finished[0]
  before = (out / f"{name}.jsonl").read_bytes()
  with folder_lock(str(out / name), "taken"):
    reply = worker.train_error(out, name, per_device_batch_size=8, **SAVING, **SPARSE)
  assert reply["error"] == "ConfigError"
  assert reply["message"].startswith(f"run_name={name}: another process trains this run in {out / name}; wait for it")
  assert (out / f"{name}.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_is_named_with_the_one_before_it(worker, out, finished):
  name = copy_of(out, finished[0], "guarded_damaged")
  shutil.rmtree(out / name / "checkpoints" / "19")
  last = out / name / "checkpoints" / "16"
  for path in last.rglob("*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  reply = worker.train_error(out, name, per_device_batch_size=8, **SAVING, **SPARSE)
  assert reply["error"] == "RunError" and len(reply["message"].splitlines()) == 1
  assert reply["message"].startswith(f"{last}: this checkpoint cannot be read with these keys (")
  assert reply["message"].endswith("give the same command: the run then goes on from the checkpoint of step 12")
  last.rename(out / name / "damaged_16")
  begin = worker.log.stat().st_size
  resumed = worker.train(out, name, eval_interval=10, eval_steps=1, **SAVING, **SPARSE)
  assert [row["step"] for row in resumed.train_rows] == list(range(20))
  assert "restoring from this run's directory step 12" in log_since(worker, begin)


def test_a_damaged_or_stray_record_is_named_and_moving_it_away_helps(worker, out, finished):
  name = copy_of(out, finished[0], "guarded_record")
  shutil.rmtree(out / name / "checkpoints" / "19")
  records = out / name / "sparsity"
  contents = {
    "event_00000013.json": ('{"step": 13', "not an event record ("),
    "event_13.json": ("{}", "not the name of an event record"),
  }
  for file, (content, says) in contents.items():
    (records / file).write_text(content)
    reply = worker.train_error(out, name, per_device_batch_size=8, **SAVING, **SPARSE)
    assert reply["error"] == "ConfigError"
    assert reply["message"].startswith(f"{records / file}: {says}") and "move it away" in reply["message"]
    (records / file).unlink()
  (records / "notes.txt").write_text("mine")
  begin = worker.log.stat().st_size
  worker.train(out, name, eval_interval=10, eval_steps=1, **SAVING, **SPARSE)
  assert f"{records / 'notes.txt'}: not a file of this run, it is left alone" in log_since(worker, begin)
  assert json.loads((records / "event_00000013.json").read_text())["step"] == 13


@pytest.mark.parametrize(
  ("keys", "says"),
  [
    ({"sparsity": 0.6}, "sparsity=0.6: this run began with sparsity=0.8; "),
    (
      {"prune_exclude": "[mlp/wo]"},
      "the set of pruned parameters: this run began with 8, the config asks for 7, no longer pruned: ",
    ),
  ],
)
def test_a_resume_with_other_keys_names_what_differs(worker, out, finished, keys, says):
  name = copy_of(out, finished[0], f"guarded_{'_'.join(keys)}")
  shutil.rmtree(out / name / "checkpoints" / "19")
  reply = worker.train_error(out, name, per_device_batch_size=8, **SAVING, **(SPARSE | keys))
  assert reply["error"] == "ConfigError" and reply["message"].startswith(says)
  assert reply["message"].endswith("; restore the old steps and sparsity keys, or set gmp_reschedule=True")


def test_hold_without_zeros_is_refused(worker, out):
  reply = worker.train_error(out, "guarded_hold", per_device_batch_size=8, pruning_method="hold")
  assert reply["error"] == "ConfigError"
  assert reply["message"].startswith("pruning_method=hold: no prunable weight is zero at step 0")


@pytest.mark.parametrize(
  ("number", "error", "keys"), [(signal.SIGINT, "InterruptError", SPARSE), (signal.SIGTERM, "StoppedError", {})]
)
def test_a_stop_saves_a_checkpoint_and_the_run_goes_on_from_it(worker, out, number, error, keys):
  """Sparse after Ctrl-C, dense after SIGTERM; both end as if nothing had happened."""
  name = f"guarded_{number.name}"
  settings = SAVING | keys | {"steps": 60, "checkpoint_period": 1000}
  if keys:
    settings |= {"gmp_end_step": 52}
  request = {"call": "train", "plugin": True, "args": arguments(out, name, per_device_batch_size=8, **settings)}
  worker._process.stdin.write(json.dumps(request) + "\n")
  worker._process.stdin.flush()
  rows = out / f"{name}.jsonl"
  deadline = time.monotonic() + 600
  while not (rows.exists() and rows.read_bytes().count(b"\n") > 5):
    assert time.monotonic() < deadline, worker.log.read_text()[-2000:]
    time.sleep(0.01)
  os.kill(worker._process.pid, number)
  reply = json.loads(worker._replies.readline())
  assert reply["error"] == error, reply
  stopped_at = checkpoints(out, name)[-1]
  assert 5 <= stopped_at < 59
  assert reply["message"].startswith(f"steps=60: training stopped after step {stopped_at} (")
  assert reply["message"].endswith("the same command goes on from there")
  resumed = worker.train(out, name, **settings)
  # As after a preemption, MaxText does not write the row of the step after which it stops.
  assert sorted({row["step"] for row in read_rows(rows)} | {stopped_at}) == list(range(60))
  assert_same_leaves(resumed, worker.train(out, f"{name}_whole", **settings))


def test_a_dense_run_says_so_once(worker, out):
  begin = worker.log.stat().st_size
  worker.train(out, "guarded_dense", steps=3)
  log = log_since(worker, begin)
  assert log.count("dense, sparsity=0") == 1 and "run guarded_dense is finished: 3 steps, loss " in log
