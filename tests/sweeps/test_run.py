"""`sweep run` as its user runs it: killed, resumed, reported, collected, fitted."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from maxtext_sparse.sweeps.manifest import read_manifest
from tests.sweeps.conftest import SHIPPED

COMMAND = [sys.executable, "-m", "maxtext_sparse"]


def start(*arguments):
  return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*arguments, status=0):
  result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=1500)
  assert result.returncode == status, result.stderr + result.stdout
  return result


def children_of(pid):
  with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
    return [int(child) for child in file.read().split()]


def is_alive(pid):
  with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8") as file:
    return file.read().rpartition(")")[2].split()[0] != "Z"
  return False


def wait_until(condition, process=None, seconds=600):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, "too late"
    assert process is None or process.poll() is None, process.communicate()
    time.sleep(0.1)


def train_rows(manifest, run):
  with open(os.path.join(manifest.run_directory(run), "metrics.jsonl"), encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
  return [row for row in rows if "learning/loss" in row]


def num_rows(manifest, run):
  with contextlib.suppress(OSError, ValueError):
    return len(train_rows(manifest, run))
  return 0


@pytest.mark.slow
def test_a_sweep_killed_twice_goes_on_and_is_fitted(tmp_path):
  folder = str(tmp_path / "smoke")
  finish("sweep", "make", str(SHIPPED / "mini-smoke.yml"), "--out", folder)
  manifest = read_manifest(folder)
  for name in ("mini-smoke-t40-s50", "mini-smoke-t60-s80"):
    run = manifest.find(name)
    process = start("sweep", "run", folder, "--jobs", "2")
    wait_until(lambda run=run: num_rows(manifest, run) > run.branch_step + 8, process)
    children = children_of(process.pid)
    assert children
    process.kill()
    process.wait()
    wait_until(lambda children=children: not any(map(is_alive, children)), seconds=30)
  interrupted = json.loads(finish("sweep", "status", folder, "--json").stdout)
  assert {entry["state"] for entry in interrupted["runs"]} >= {"done", "stopped"}
  finish("sweep", "run", folder, "--jobs", "2")
  for run in manifest.runs:
    assert [row["step"] for row in train_rows(manifest, run)] == list(range(run.steps))
  table = str(tmp_path / "runs.csv")
  finish("sweep", "collect", folder, "--out", table)
  fit = json.loads(finish("fit", table, "--law", "average", "--json").stdout)
  assert fit["n"] == 6 and fit["mae"] < 0.5
  again = finish("sweep", "run", folder)
  assert "8 of 8 runs are finished" in again.stdout and "started" not in again.stdout


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_others(tmp_path):
  """The trunk of one length cannot train; its branches are blocked, the other length is trained."""
  folder = str(tmp_path / "smoke")
  finish("sweep", "make", str(SHIPPED / "mini-smoke.yml"), "--out", folder)
  manifest = read_manifest(folder)
  trunk = manifest.config_path(manifest.find("mini-smoke-trunk-t40"))
  with open(trunk, encoding="utf-8") as file:
    config = yaml.safe_load(file)
  with open(trunk, "w", encoding="utf-8") as file:
    yaml.safe_dump(config | {"gmp_pruning_frequency": 0}, file)
  result = finish("sweep", "run", folder, "--jobs", "2", "--only", "*-s80", "--json", status=1)
  states = json.loads(result.stdout)
  assert {name: entry["state"] for name, entry in states.items()} == {
    "mini-smoke-trunk-t40": "failed",
    "mini-smoke-t40-s80": "failed",
    "mini-smoke-trunk-t60": "done",
    "mini-smoke-t60-s80": "done",
  }
  assert states["mini-smoke-t40-s80"]["reason"] == "its trunk mini-smoke-trunk-t40 failed"
  assert "gmp_pruning_frequency=0" in states["mini-smoke-trunk-t40"]["reason"]


@pytest.mark.slow
def test_ctrl_c_stops_everything_and_says_how_to_go_on(tmp_path):
  folder = str(tmp_path / "smoke")
  finish("sweep", "make", str(SHIPPED / "mini-smoke.yml"), "--out", folder)
  process = start("sweep", "run", folder)
  wait_until(lambda: children_of(process.pid), process)
  children = children_of(process.pid)
  process.send_signal(signal.SIGINT)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 130 and "call the same command to go on" in errors
  assert not any(map(is_alive, children))
