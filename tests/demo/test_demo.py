"""The demo as its user runs it: two real MaxText runs, reused by the next call, resumed after Ctrl-C and kill -9."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

STEPS = 24


def command(out, steps=STEPS, *options):
  return [sys.executable, "-m", "maxtext_sparse", "demo", "--out", str(out), "--steps", str(steps), *options]


def run(out, *options, steps=STEPS):
  return subprocess.run(command(out, steps, *options), capture_output=True, text=True, check=False, timeout=800)


def result_of(finished):
  assert finished.returncode == 0, finished.stderr
  return json.loads(finished.stdout)


def rows(out, name):
  with open(out / "runs" / name / "metrics.jsonl", encoding="utf-8") as file:
    return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The folder of a short demo from nothing, and what it printed with --json."""
  out = tmp_path_factory.mktemp("demo") / "out"
  return out, run(out, "--json")


def test_demo_from_nothing(finished):
  out, process = finished
  result = result_of(process)
  dense, sparse = result["runs"]["dense"], result["runs"]["sparse"]
  assert dense["final_params"] == 753_664 and dense["density"] == 1.0
  assert sparse["final_params"] == 753_664 - round(0.8 * 753_664)
  assert sparse["density"] == pytest.approx(0.2, abs=1e-6)
  assert sparse["effective_flops"] / dense["effective_flops"] == pytest.approx(sparse["average_params"] / 753_664)
  assert 4.0 < dense["eval_loss"] < 7.5 and 4.0 < sparse["eval_loss"] < 7.5
  assert sparse["thinnest_matrix"].startswith("decoder/") and 0 <= sparse["thinnest_density"] < 0.2
  assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
  assert json.loads((out / "result.json").read_text()) == result


def test_both_runs_saw_the_same_data(finished):
  out, _ = finished
  dense, sparse = (
    [row for row in rows(out, f"{name}_{STEPS}") if "learning/loss" in row] for name in ("dense", "sparse80")
  )
  assert [row["step"] for row in dense] == [row["step"] for row in sparse] == list(range(STEPS))
  assert [row["learning/total_weights"] for row in dense] == [row["learning/total_weights"] for row in sparse]
  first_event = next(row["step"] for row in sparse if row["pruning/density"] < 1)
  assert all(a["learning/loss"] == b["learning/loss"] for a, b in zip(dense, sparse) if a["step"] <= first_event)


def test_second_call_reuses_everything(finished):
  out, process = finished
  start = time.monotonic()
  again = run(out)
  assert time.monotonic() - start < 30
  assert (
    again.returncode == 0 and "dense: finished before" in again.stdout and "sparse 80 %: finished before" in again.stdout
  )
  assert "eval loss (nats per token)" in again.stdout and "150,733" in again.stdout
  assert result_of(run(out, "--json")) == result_of(process)


def wait_for_checkpoint(out, name, process):
  """Waits until a run has saved its first checkpoint."""
  folder = out / "runs" / name / "checkpoints"
  deadline = time.monotonic() + 400
  while time.monotonic() < deadline and process.poll() is None:
    with contextlib.suppress(FileNotFoundError):
      if any(entry.isdigit() for entry in os.listdir(folder)):
        return
    time.sleep(0.1)
  pytest.fail(f"no checkpoint in {folder}")


def children_of(pid):
  with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
    return [int(child) for child in file.read().split()]


def wait_for_exit(pids):
  deadline = time.monotonic() + 30
  while any(os.path.exists(f"/proc/{pid}/exe") and os.access(f"/proc/{pid}/exe", os.R_OK) for pid in pids):
    assert time.monotonic() < deadline, "the child outlives its parent"
    time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "name"), [("ctrl_c", "dense"), ("kill_parent", "sparse80"), ("kill_child", "sparse80")])
def test_interrupted_demo_goes_on(tmp_path, reference, how, name):
  """Killed in the middle of either run, the same command goes on, and its figures are those of an uninterrupted one."""
  out = tmp_path / "out"
  process = subprocess.Popen(command(out, 60), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  wait_for_checkpoint(out, f"{name}_60", process)
  children = children_of(process.pid)
  victim, number = {
    "ctrl_c": (process.pid, signal.SIGINT),
    "kill_parent": (process.pid, signal.SIGKILL),
    "kill_child": (children[0], signal.SIGKILL),
  }[how]
  os.kill(victim, number)
  _, errors = process.communicate(timeout=60)
  wait_for_exit(children)
  assert process.returncode == {"ctrl_c": 130, "kill_parent": -9, "kill_child": 1}[how]
  if how != "kill_parent":
    assert len(errors.strip().splitlines()) == 1 and "the same command goes on from the last checkpoint" in errors
  result = result_of(run(out, "--json", steps=60))
  steps = [row["step"] for row in rows(out, f"{name}_60") if "learning/loss" in row]
  assert len(set(steps)) == len(steps) >= 58
  for kind in ("dense", "sparse"):
    ours, theirs = result["runs"][kind], reference["runs"][kind]
    assert ours | {"seconds": 0} == theirs | {"seconds": 0}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
  return result_of(run(tmp_path_factory.mktemp("reference") / "out", "--json", steps=60))
