"""`sweep make`: the shipped studies, names, bytes, and what it never overwrites."""

import hashlib
import json
import os
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner
import yaml

from maxtext_sparse.cli import app
from maxtext_sparse.config import parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.models import load_model
from maxtext_sparse.sweeps.make import make
from maxtext_sparse.sweeps.manifest import read_manifest
from tests.sweeps.conftest import SHIPPED

# Runs without trunks, trunks, steps of the runs in tokens.
COUNTS = {
  "schedules": (80, 2),
  "lr-batch": (9, 0),
  "law": (30, 6),
  "pairs": (12, 0),
  "released-1b": (12, 0),
  "mini-law": (30, 0),
  "mini-pairs": (24, 0),
  "mini-causes": (33, 0),
  "mini-remedies": (13, 0),
  "mini-lengths": (48, 0),
  "mini-rules": (39, 0),
  "mini-schedules": (20, 1),
  "mini-smoke": (6, 2),
}


def runs_of(made):
  return {run.name: run for run in made.runs if run.kind == "run"}


def files_in(folder):
  return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_every_shipped_sweep_is_counted_here():
  assert {path.stem for path in SHIPPED.glob("*.yml")} == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_shipped_sweeps_have_their_papers_runs(shipped, name):
  made = shipped(name)
  assert (made.num_runs, made.num_trunks) == COUNTS[name]


def test_the_schedules_are_ten_pairs_of_fractions_at_four_sparsities_and_two_lengths(shipped):
  axes = [run.axes for run in runs_of(shipped("schedules")).values()]
  pairs = {(a["gmp_dense_fraction"], a["gmp_prune_fraction"]) for a in axes}
  assert len(pairs) == 10 and all(d + p <= 1 for d, p in pairs)
  assert {a["sparsity"] for a in axes} == {0.2, 0.4, 0.6, 0.8} and {a["tokens"] for a in axes} == {"10x", "20x"}
  assert {run.steps for run in runs_of(shipped("schedules")).values()} == {16000, 32000}


def test_trunks_of_the_schedules_save_what_shared_prefixes_cost(shipped):
  """98.9 of 120 units with branches at the start steps themselves; checkpoints are on multiples of 100 steps."""
  made = shipped("schedules")
  assert made.steps_alone == 120 * 16000
  assert made.saved == pytest.approx(1 - 98.9 / 120, abs=3e-3)
  for run in runs_of(made).values():
    schedule = load_schedule(made, run)
    if run.trunk:
      assert schedule.start - 100 <= run.branch_step <= schedule.start - 1
    else:
      assert run.axes["gmp_dense_fraction"] == 0


def load_schedule(made, run):
  from maxtext_sparse.schedule import build_schedule

  return build_schedule(parse_keys(made.load_config(run)), run.steps)


def test_a_trunk_is_the_dense_prefix_of_its_branches(shipped):
  """It differs in length and schedule alone, and prunes after the last checkpoint that a branch starts from."""
  made = shipped("law")
  for run in runs_of(made).values():
    assert (run.trunk is None) == (run.axes["sparsity"] == 0)
    if run.trunk is None:
      continue
    trunk = made.find(run.trunk)
    ours, theirs = made.load_config(run), made.load_config(trunk)
    assert theirs["learning_rate_schedule_steps"] == run.steps == ours["steps"]
    differing = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
    lengths = {"steps", "learning_rate_schedule_steps", "checkpoint_period", "run_name"}
    assert differing <= lengths | {"sparsity", "gmp_start_step", "gmp_end_step"}
    assert theirs["gmp_start_step"] == theirs["gmp_end_step"] == trunk.steps - 1 > run.branch_step
    assert run.branch_step % theirs["checkpoint_period"] == 0
    names = [run.name for run in made.runs]
    assert names.index(run.trunk) < names.index(run.name)


def test_a_neighbour_that_is_a_run_of_the_axes_is_made_once(shipped):
  """The dense run of 20,000 weights is the upper neighbour of 20 %."""
  runs = runs_of(shipped("mini-pairs"))
  assert [run.num_prunable for run in runs.values() if run.axes["sparsity"] == 0].count(20_000) == 3
  assert "mini-pairs-seed0-s0" in runs and "mini-pairs-seed0-dense-e20" not in runs


def test_the_miniature_pairs_are_as_long_as_the_papers(shipped):
  for run in runs_of(shipped("mini-pairs")).values():
    assert run.steps * run.batch_tokens >= 200 * run.num_prunable
    if run.axes["sparsity"]:
      assert len(load_schedule(shipped("mini-pairs"), run).event_steps) >= 50


@pytest.mark.parametrize("name", ["mini-pairs", "mini-lengths", "mini-causes", "mini-remedies", "mini-rules"])
def test_the_table_beside_a_sweep_file_has_a_row_for_each_run(shipped, name):
  assert list(pd.read_csv(SHIPPED / f"{name}.csv")["run"]) == list(runs_of(shipped(name)))


def test_a_batch_of_fewer_tokens_makes_more_steps(shipped):
  for run in runs_of(shipped("lr-batch")).values():
    assert run.batch_tokens == run.axes["batch_tokens"]
    assert run.steps * run.batch_tokens == 16000 * 2**21


@pytest.mark.parametrize(("name", "unit"), [("pairs", 24), ("released-1b", 64)])
def test_twins_are_the_neighbours_of_the_average(shipped, name, unit):
  runs = list(runs_of(shipped(name)).values())
  for sparse, below, above in zip(runs[::3], runs[1::3], runs[2::3]):
    average = load_schedule(shipped(name), sparse).active_sum(sparse.steps, sparse.num_prunable) / sparse.steps
    assert below.num_prunable < average < above.num_prunable
    sizes = [shipped(name).load_config(run)["base_emb_dim"] for run in (below, above)]
    assert sizes[1] - sizes[0] == unit and below.axes["sparsity"] == above.axes["sparsity"] == 0
    assert below.steps == above.steps == sparse.steps and below.batch_tokens == sparse.batch_tokens


def test_names_say_what_a_run_is(shipped):
  assert {"law-58m-s0-10x", "law-468m-s80-20x"} <= runs_of(shipped("law")).keys()
  assert "schedules-10x-s20-d25-p50" in runs_of(shipped("schedules"))
  assert "lr-batch-lr1p6e-3-b131072" in runs_of(shipped("lr-batch"))
  assert {run.name for run in shipped("law").runs if run.kind == "trunk"} >= {"law-trunk-58m-10x", "law-trunk-468m-20x"}


@pytest.mark.parametrize("name", ["schedules", "mini-law"])
def test_every_config_stands_alone(shipped, name):
  manifest = shipped(name)
  run = manifest.runs[-1]
  model = load_model([manifest.config_path(run)])
  assert (model.flat["run_name"], model.steps, model.num_prunable) == (run.name, run.steps, run.num_prunable)
  assert model.keys.sparsity == run.axes["sparsity"]
  assert hashlib.sha256(Path(manifest.config_path(run)).read_bytes()).hexdigest() == run.digest


def test_the_same_file_makes_the_same_bytes(write_spec, tmp_path):
  spec = write_spec(trunk=True, axes={"sparsity": [0.0, 0.5, 0.8]})
  make(spec, str(tmp_path / "one"))
  make(spec, str(tmp_path / "elsewhere" / "two"))
  assert files_in(tmp_path / "one") == files_in(tmp_path / "elsewhere" / "two")
  assert str(tmp_path).encode() not in b"".join(files_in(tmp_path / "one").values())


def begin(manifest, run, step=10):
  """Leaves a checkpoint, as a run that has begun does."""
  os.makedirs(os.path.join(manifest.run_directory(run), "checkpoints", str(step)))


def test_a_run_that_has_begun_is_never_changed(write_spec, tmp_path):
  folder = str(tmp_path / "out")
  manifest = make(write_spec(axes={"sparsity": [0.5, 0.8]}), folder)
  begin(manifest, manifest.runs[1])
  before = files_in(folder)
  with pytest.raises(ConfigError, match=r"run tiny-s80: has begun.* learning_rate=0.01 instead of \(unset\)"):
    make(write_spec(axes={"sparsity": [0.5, 0.8]}, set={"learning_rate": 0.01}), folder)
  assert files_in(folder) == before


def test_a_run_that_has_begun_keeps_its_text(write_spec, tmp_path):
  folder = str(tmp_path / "out")
  manifest = make(write_spec(corpus={"train_chars": 10**6}), folder)
  begin(manifest, manifest.runs[0])
  with pytest.raises(ConfigError, match="run tiny-s50: has begun, the sweep file now gives it another corpus"):
    make(write_spec(corpus={"train_chars": 2 * 10**6}), folder)


def test_a_sweep_may_grow_around_runs_that_have_begun(write_spec, tmp_path):
  folder = tmp_path / "out"
  manifest = make(write_spec(axes={"sparsity": [0.5, 0.8]}), str(folder))
  begin(manifest, manifest.runs[1])
  when = (folder / "runs" / "tiny-s80.yml").stat().st_mtime_ns
  grown = make(write_spec(axes={"sparsity": [0.2, 0.8]}), str(folder))
  assert [run.name for run in grown.runs] == ["tiny-s20", "tiny-s80"]
  assert (folder / "runs" / "tiny-s80.yml").stat().st_mtime_ns == when
  assert not (folder / "runs" / "tiny-s50.yml").exists()


def test_a_folder_of_something_else_is_left_alone(write_spec, tmp_path):
  (tmp_path / "notes").mkdir()
  (tmp_path / "notes" / "mine.txt").write_text("mine")
  with pytest.raises(ConfigError, match="has files that are not a sweep's"):
    make(write_spec(), str(tmp_path / "notes"))


def test_the_command_prints_runs_steps_and_savings(write_spec, tmp_path):
  arguments = ["make", write_spec(trunk=True, axes={"sparsity": [0.5, 0.8]}), "--out", str(tmp_path / "out")]
  output = CliRunner().invoke(app, ["sweep", *arguments])
  assert output.exit_code == 0 and "tiny-trunk @ " in output.stdout and "2 runs, 200 steps; with 1 trunk" in output.stdout
  made = json.loads(CliRunner().invoke(app, ["sweep", *arguments, "--json"]).stdout)
  assert (made["num_runs"], made["num_trunks"], made["steps_alone"]) == (2, 1, 200)
  assert made["saved_fraction"] == pytest.approx(1 - made["steps"] / 200)
  assert [run["name"] for run in made["runs"]] == ["tiny-trunk", "tiny-s50", "tiny-s80"]


def test_what_is_read_back_is_what_was_made(write_spec, tmp_path):
  made = make(write_spec(), str(tmp_path / "out"))
  assert read_manifest(str(tmp_path / "out")) == made
  config = made.load_config(made.runs[0])
  assert config["base_config"] == "base.yml" and config["metrics_file"] == "out/tiny-s50/metrics.jsonl"
  assert yaml.safe_load((tmp_path / "out" / "runs" / "tiny-s50.yml").read_text()) == config


@pytest.mark.parametrize(
  ("fields", "branch_steps"),
  [
    # First events at 16 and 10 (60 and 80 %); a checkpoint every two steps.
    ({"axes": {"sparsity": [0.0, 0.6, 0.8]}}, [None, 14, 8]),
    ({"axes": {"sparsity": [0.6, 0.8]}, "trunk_checkpoint_period": 5}, [15, 5]),
    ({"axes": {"sparsity": [0.6, 0.8]}, "trunk_checkpoint_period": 9}, [9, 9]),
    # Nothing to share.
    ({"axes": {"sparsity": [0.6]}}, [None]),
    ({"axes": {"sparsity": [0.6, 0.8]}, "set": {"gmp_dense_fraction": 0.0}}, [None, None]),
    ({"axes": {"sparsity": [0.6, 0.8]}, "trunk_checkpoint_period": 20}, [None, None]),
    ({"axes": {"pruning_method": ["hold", "global_gradual"]}}, [None, None]),
    ({"axes": {"sparsity": [0.8], "learning_rate": [0.01, 0.02]}}, [None, None]),
    ({"axes": {"sparsity": [0.6, 0.8]}, "trunk": False}, [None, None]),
  ],
)
def test_runs_branch_at_the_last_checkpoint_before_their_first_event(write_spec, tmp_path, fields, branch_steps):
  made = make(write_spec(**({"trunk": True} | fields)), str(tmp_path / "out"))
  assert [run.branch_step for run in runs_of(made).values()] == branch_steps
  assert made.num_trunks == any(branch_steps)
  shared = [step + 1 for step in branch_steps if step]
  assert made.steps_alone - made.steps == sum(shared) - (max(shared) + 1 if shared else 0)


def test_a_twin_is_dense_whatever_prunes_its_sparse_run(write_spec, tmp_path):
  structure = {"pruning_structure": "2:4", "pruning_score": "magnitude_rms"}
  made = make(write_spec(twins=True, set=structure), str(tmp_path / "structure"))
  assert made.num_runs > 1
  for run in made.runs:
    is_twin = "dense" in run.name
    assert parse_keys(made.load_config(run)).is_active == (not is_twin)
  groups = {"prune_groups": [{"match": "mlp", "sparsity": 0.9}]}
  with pytest.raises(ConfigError, match="run tiny-s50: twins=true: prune_groups with a sparsity would prune the dense"):
    make(write_spec(twins=True, set=groups), str(tmp_path / "groups"))
