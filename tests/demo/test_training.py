"""The demo's runs without MaxText: intervals, metrics files, folders, errors, and a child that follows its parent."""

import os
import shutil
import subprocess
import sys

from hypothesis import given, strategies
import pytest

from maxtext_sparse import demo
from maxtext_sparse.config import ConfigError
from maxtext_sparse.demo import training
from maxtext_sparse.errors import HookError
from maxtext_sparse.local.corpus import Corpus

CORPUS = Corpus("corpus", "fingerprint", 1, 1)


@given(strategies.integers(training.SMALLEST_STEPS, 5_000), strategies.sampled_from([0.2, 0.5, 0.8, 0.95]))
def test_every_length_makes_a_run(steps, sparsity):
  every = training.intervals(steps)
  # A checkpoint at the last step would come before its eval.
  assert (steps - 1) % every.checkpoint != 0
  assert every.checkpoint <= steps / 4 and every.evaluation <= steps / 6
  schedule = training.sparse_schedule(steps, sparsity)
  assert schedule.final_density == pytest.approx(1 - sparsity) and len(schedule.event_steps) >= 5


@pytest.mark.parametrize(
  ("steps", "sparsity", "message"),
  [(5, 0.8, "steps=5: the demo needs at least 20"), (100, 1.5, "sparsity=1.5: "), (100, 0, "sparsity=0: the demo")],
)
def test_bad_arguments_are_one_line(tmp_path, steps, sparsity, message):
  with pytest.raises(ConfigError, match=message) as caught:
    demo.run_demo(str(tmp_path / "out"), steps=steps, sparsity=sparsity)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_both_runs_differ_in_sparsity_alone():
  dense, sparse = training.plan_runs("out/runs", CORPUS, 600, 0.8)
  assert set(sparse.overrides) - set(dense.overrides) == {"sparsity=0.8", "gmp_pruning_frequency=10"}
  assert set(dense.overrides) < set(sparse.overrides)
  assert (dense.directory, sparse.directory) == ("out/runs/dense_600", "out/runs/sparse80_600")
  other = training.plan_runs("out/runs", CORPUS, 600, 0.6)
  assert other[0] == dense and other[1].directory != sparse.directory


@pytest.fixture
def spec(tmp_path):
  return training.plan_runs(str(tmp_path / "runs"), CORPUS, 600, 0.8)[0]


def finish(spec):
  os.makedirs(os.path.join(spec.directory, "checkpoints", "599"))
  with open(spec.metrics_file, "w", encoding="utf-8") as file:
    file.write('{"step": 599.0, "learning/loss": 4.0}\n{"step": 599.0, "eval/avg_loss": 4.0}\n')


def test_a_run_is_finished_with_its_last_checkpoint_and_eval(spec):
  training._prepare(spec)
  assert not spec.is_finished
  finish(spec)
  assert spec.is_finished
  training._prepare(spec)
  assert spec.is_finished


def test_another_recipe_or_lost_metrics_start_anew(spec, tmp_path):
  for spoil in (lambda: os.remove(spec.metrics_file), lambda: (tmp_path / "runs/dense_600/demo.json").write_text("{}")):
    training._prepare(spec)
    finish(spec)
    spoil()
    assert not spec.is_finished
    training._prepare(spec)
    assert os.listdir(spec.directory) == ["demo.json"]


def test_folders_of_others_are_left_alone(spec, tmp_path):
  os.makedirs(spec.directory)
  (tmp_path / "runs/dense_600/thesis.txt").write_text("mine")
  with pytest.raises(ConfigError, match=r"dense_600: has files that are not the demo's, give another --out"):
    training._prepare(spec)
  (tmp_path / "corpus").mkdir()
  (tmp_path / "corpus/thesis.txt").write_text("mine")
  with pytest.raises(ConfigError, match=r"corpus: has files that are not the demo's, give another --out"):
    demo.run_demo(str(tmp_path))
  assert (tmp_path / "corpus/thesis.txt").exists() and (tmp_path / "runs/dense_600/thesis.txt").exists()


def test_a_failed_child_is_one_line_with_its_log(spec, monkeypatch):
  from maxtext_sparse.hooks.monitor import RunError

  monkeypatch.setattr(training, "_arguments", lambda *args: ["nowhere.yml", "nowhere_else.yml"])
  with pytest.raises(RunError, match=r"dense run failed: nowhere.yml: cannot read .*; log: .*train.log") as caught:
    training.train(spec, CORPUS, "cache", lambda *rows: None)
  assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ConfigError, match=r"--out=.*file/out: cannot write there \(Not a directory\), choose another"):
    demo.run_demo(str(tmp_path / "file" / "out"))


def test_no_room(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=120_000_000))
  with pytest.raises(ConfigError, match="120 MB free on that disk, the demo needs 300 MB; free some or choose another"):
    demo.run_demo(str(tmp_path / "out"))


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
  def fail(*args):
    raise OSError(28, "No space left on device", "corpus")

  monkeypatch.setattr(demo, "build_corpus", fail)
  with pytest.raises(ConfigError, match=r"--out=.*: No space left on device: corpus"):
    demo.run_demo(str(tmp_path / "out"))


def test_two_demos_in_one_folder(tmp_path):
  with demo._own_folder(str(tmp_path)), pytest.raises(ConfigError, match="another demo is at work there"):
    demo.run_demo(str(tmp_path))


def test_no_maxtext(tmp_path, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(HookError, match="maxtext: not installed here"):
    demo.run_demo(str(tmp_path / "out"))


def test_the_parent_loads_neither_jax_nor_maxtext():
  code = (
    "import sys; import maxtext_sparse.demo; print([m for m in ('jax', 'maxtext', 'matplotlib') if m in sys.modules])"
  )
  assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
