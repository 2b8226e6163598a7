"""The demo as its user runs it: what it refuses, real MaxText runs, and what the next call uses again or resumes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from maxtext_sparse.demo import pipeline, run_demo
from maxtext_sparse.demo.training import recipe_file
from maxtext_sparse.errors import ConfigError, HookError
from maxtext_sparse.runs.files import LOCK_FILE
from tests.demo.short_demo import command, result_of, run, STEPS


def rows(out, name):
  with open(out / "runs" / name / "metrics.jsonl", encoding="utf-8") as file:
    return [json.loads(line) for line in file]


@pytest.mark.parametrize(
  ("steps", "sparsity", "message"),
  [(5, 0.8, "steps=5: the demo needs at least 20"), (100, 1.5, "sparsity=1.5: "), (100, 0, "sparsity=0: the demo")],
)
def test_bad_arguments_are_one_line(tmp_path, steps, sparsity, message):
  with pytest.raises(ConfigError, match=message) as caught:
    run_demo(str(tmp_path / "out"), steps=steps, sparsity=sparsity)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_a_folder_of_others_is_left_alone(tmp_path):
  (tmp_path / "thesis.txt").write_text("mine")
  with pytest.raises(ConfigError, match=r"--out=.*: has files that are not the demo's, such as thesis.txt; choose"):
    run_demo(str(tmp_path))
  assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_folder_in_which_a_sweep_trains_is_left_alone(tmp_path):
  """It has folders of the same names."""
  for name in ("corpus", "runs", "jax_cache"):
    (tmp_path / name).mkdir()
  (tmp_path / "manifest.json").write_text("{}")
  with pytest.raises(ConfigError, match=r"has files that are not the demo's, such as manifest.json"):
    run_demo(str(tmp_path))


def test_a_corpus_of_others_is_left_alone(tmp_path):
  (tmp_path / LOCK_FILE).write_text("")
  (tmp_path / "corpus").mkdir()
  (tmp_path / "corpus/thesis.txt").write_text("mine")
  with pytest.raises(ConfigError, match=r"corpus: has files that are not the demo's, give another --out"):
    run_demo(str(tmp_path))
  assert (tmp_path / "corpus/thesis.txt").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ConfigError, match=r"--out=.*file/out: cannot write there \(Not a directory\), choose another"):
    run_demo(str(tmp_path / "file" / "out"))


def test_no_room(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=120_000_000))
  with pytest.raises(ConfigError, match="120 MB free on that disk, the demo needs 300 MB; free some or choose another"):
    run_demo(str(tmp_path / "out"))


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
  def fail(*args, **settings):
    raise OSError(28, "No space left on device", "corpus")

  monkeypatch.setattr(pipeline, "build_corpus", fail)
  with pytest.raises(ConfigError, match=r"--out=.*: No space left on device: corpus"):
    run_demo(str(tmp_path / "out"))


def test_two_demos_in_one_folder(tmp_path):
  with pipeline._own_folder(str(tmp_path)), pytest.raises(ConfigError, match="another demo is at work there"):
    run_demo(str(tmp_path))


def test_no_maxtext(tmp_path, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(HookError, match="maxtext: not installed here"):
    run_demo(str(tmp_path / "out"))


def test_the_parent_loads_neither_jax_nor_maxtext_and_matplotlib_only_to_draw():
  code = (
    "import sys\n"
    "loaded = lambda: [name for name in ('jax', 'maxtext', 'matplotlib') if name in sys.modules]\n"
    "import maxtext_sparse.demo; print(loaded())\n"
    "import maxtext_sparse.plots.demo; print(loaded())"
  )
  assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n['matplotlib']\n"


def test_demo_from_nothing(finished):
  out, process = finished
  result = result_of(process)
  dense, sparse, twin = (result["runs"][name] for name in ("dense", "sparse", "twin"))
  assert dense["final_params"] == 20_000 and dense["density"] == 1.0
  assert sparse["final_params"] == 12_000
  assert sparse["density"] == pytest.approx(0.6, abs=1e-6)
  assert sparse["effective_flops"] / dense["effective_flops"] == pytest.approx(sparse["average_params"] / 20_000)
  assert all(4.0 < run["eval_loss"] < 7.0 for run in (dense, sparse, twin))
  assert sparse["thinnest_matrix"].startswith("decoder/") and 0 <= sparse["thinnest_density"] < 0.6
  assert (result["steps"], result["tokens"]) == (STEPS, STEPS * 8192)
  assert result["data"].startswith("the .py and .txt files of the standard library of Python 3.")
  assert result["plot"] == str(out / "demo.png") and (out / "demo.png").read_bytes().startswith(b"\x89PNG")
  assert json.loads((out / "result.json").read_text()) == result


def test_the_twin_has_the_average_size_of_the_sparse_run(finished):
  result = result_of(finished[1])
  sparse, twin = result["runs"]["sparse"], result["runs"]["twin"]
  assert twin["final_params"] == pytest.approx(sparse["average_params"], abs=1)
  assert twin["effective_flops"] == pytest.approx(sparse["effective_flops"], rel=1e-3)
  assert result["sparse_minus_twin"] == pytest.approx(sparse["eval_loss"] - twin["eval_loss"])
  assert result["times_smaller_than_twin"] == pytest.approx(twin["final_params"] / 12_000)


@pytest.mark.parametrize(("name", "weights_format"), [("dense", "dense"), ("sparse", "bitmask")])
def test_the_bytes_are_those_of_an_export(finished, tmp_path, name, weights_format):
  from maxtext_sparse.export.write import export_checkpoint, ExportOptions

  out, process = finished
  runs = {"dense": f"dense_{STEPS}", "sparse": f"sparse40_{STEPS}"}
  recipe = [] if name == "sparse" else [recipe_file()]
  options = ExportOptions(dtype="bfloat16", weights_format=weights_format)
  exported = export_checkpoint(str(out / "runs" / runs[name]), str(tmp_path / "model"), recipe, options)
  assert exported.weight_bytes == result_of(process)["runs"][name]["export_bytes"]


def test_dense_and_sparse_run_saw_the_same_data(finished):
  out, _ = finished
  dense, sparse = (
    [row for row in rows(out, f"{name}_{STEPS}") if "learning/loss" in row] for name in ("dense", "sparse40")
  )
  assert [row["step"] for row in dense] == [row["step"] for row in sparse] == list(range(STEPS))
  assert [row["learning/total_weights"] for row in dense] == [row["learning/total_weights"] for row in sparse]
  # Up to the first event both compute the same, but XLA compiles two programs, whose sums may be rounded differently. A
  # relative rounding error of 2^-24 = 6e-8 in each of the few steps before the event stays far below this bound.
  first_event = next(row["step"] for row in sparse if row["pruning/density"] < 1)
  for a, b in zip(dense, sparse):
    if a["step"] <= first_event:
      assert a["learning/loss"] == pytest.approx(b["learning/loss"], rel=1e-4)


def test_second_call_reuses_everything(finished):
  out, process = finished
  start = time.monotonic()
  again = run(out)
  assert time.monotonic() - start < 30
  assert (
    again.returncode == 0 and "dense: finished before" in again.stdout and "sparse 40 %: finished before" in again.stdout
  )
  assert "eval loss (nats per token)" in again.stdout and "its dense twin (" in again.stdout
  assert "data: the .py and .txt files of the standard library of Python 3." in again.stdout
  assert f"length: {STEPS} steps of 8,192 tokens for each run, 196,608 tokens" in again.stdout
  assert "That is short: the paper's runs have more than 200" in again.stdout
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
@pytest.mark.parametrize(("how", "name"), [("ctrl_c", "dense"), ("kill_parent", "sparse40"), ("kill_child", "sparse40")])
def test_interrupted_demo_goes_on(tmp_path, reference, how, name):
  """Killed in the middle of either run, the same command goes on, and its figures are those of an uninterrupted one.

  They are equal to the last digit on any one machine: a resumed run is the same compiled program.
  """
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
  for kind in ("dense", "sparse", "twin"):
    ours, theirs = result["runs"][kind], reference["runs"][kind]
    assert ours | {"seconds": 0} == theirs | {"seconds": 0}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
  return result_of(run(tmp_path_factory.mktemp("reference") / "out", "--json", steps=60))
