"""The demo's runs, without training: their intervals, their folders, and a child process that fails."""

import os

from hypothesis import given, strategies
import pytest

from maxtext_sparse.demo import training
from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.local.corpus import Corpus
from tests.demo.conftest import TWIN

CORPUS = Corpus("corpus", "fingerprint", 1, 1)


@given(strategies.integers(training.SMALLEST_STEPS, 5_000), strategies.sampled_from([0.2, 0.5, 0.8, 0.95]))
def test_every_length_makes_a_run(steps, sparsity):
  every = training.intervals(steps)
  # A checkpoint at the last step would come before its eval.
  assert (steps - 1) % every.checkpoint != 0
  assert every.checkpoint <= steps / 4 and every.evaluation <= steps / 6
  schedule = training.sparse_schedule(steps, sparsity)
  assert schedule.final_density == pytest.approx(1 - sparsity) and len(schedule.event_steps) >= 5


def test_the_recipe_says_how_many_tokens_a_step_has():
  assert training.tokens_per_step() == 128 * 64
  assert training.vocab_size() == 400


def test_all_runs_differ_in_sparsity_or_size_alone():
  runs = training.plan_runs("out/runs", CORPUS, 600, 0.8, TWIN)
  common = set(runs.dense.overrides)
  assert set(runs.sparse.overrides) - common == {"sparsity=0.8", "gmp_pruning_frequency=4"}
  assert [set(spec.overrides) - common for spec in runs.neighbours] == [set(n.overrides) for n in TWIN.neighbours]
  assert all(common <= set(spec.overrides) for spec in runs.all)
  folders = ["dense_600", "sparse80_600", "twin232_600", "twin432_600"]
  assert [spec.directory for spec in runs.all] == [f"out/runs/{folder}" for folder in folders]
  other = training.plan_runs("out/runs", CORPUS, 600, 0.6, TWIN)
  assert other.dense == runs.dense and other.sparse.directory != runs.sparse.directory


@pytest.fixture
def spec(tmp_path):
  return training.plan_runs(str(tmp_path / "runs"), CORPUS, 600, 0.8, TWIN).dense


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
  assert (tmp_path / "runs/dense_600/thesis.txt").exists()


def test_a_failed_child_is_one_line_with_its_log(spec, monkeypatch):
  monkeypatch.setattr(training, "_arguments", lambda *args: ["nowhere.yml", "nowhere_else.yml"])
  with pytest.raises(RunError, match=r"dense run failed: nowhere.yml: .*; log: .*train.log") as caught:
    training.train_all([spec], CORPUS, "cache", lambda title, steps: lambda *rows: None)
  assert "\n" not in str(caught.value)
