"""A branch starts from an exact copy of its trunk's checkpoint, and ends as the run trained alone, up to rounding."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from maxtext_sparse.errors import RunError
from maxtext_sparse.sweeps.branch import branch
from maxtext_sparse.sweeps.make import make
from maxtext_sparse.sweeps.state import checkpoint_steps, is_finished
from tests.hooks.harness import cache_directory, read_rows, TINY_MODEL

STEPS = 16
# The trunk's program trained the branch's first steps. It has the same operations, but XLA compiles it separately and may
# sum in another order. A rounding error is 2^-24 = 6e-8 of a value, and it may decide about a weight at the threshold.
# Both stay below these bounds; another batch or learning rate in a single step would not.
RELATIVE_LOSS = 1e-4
RELATIVE_WEIGHTS = 1e-2


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, text_data):
  """A trunk and two branches on real text, with events from step 6 on and from step 8 on."""
  folder = tmp_path_factory.mktemp("branch")
  model = {key: value for key, value in TINY_MODEL.items() if key not in ("enable_checkpointing", "dataset_type")}
  text = text_data | {"train_data_columns": ["text"], "eval_data_columns": ["text"]}
  lengths = {"steps": STEPS, "per_device_batch_size": 8, "eval_interval": 5, "eval_steps": 2}
  (folder / "tiny.yml").write_text(yaml.safe_dump(model | text | lengths))
  spec = {
    "name": "study",
    "base": "tiny.yml",
    "trunk": True,
    "set": {"sparsity": 0.8, "gmp_pruning_frequency": 2, "gmp_end_step": 10},
    "axes": {"gmp_start_step": [6, 8]},
  }
  (folder / "study.yml").write_text(yaml.safe_dump(spec))
  return make(str(folder / "study.yml"), str(folder / "study"))


@pytest.fixture(scope="module")
def train(worker, manifest):
  """Trains a run from its shipped config, in the sweep's own folder or elsewhere."""

  def train_run(run, out=manifest.output_path):
    folder = Path(out) / run.name
    folder.mkdir(parents=True, exist_ok=True)
    places = {"base_output_directory": out, "metrics_file": folder / "metrics.jsonl", "jax_cache_dir": cache_directory()}
    arguments = [manifest.config_path(run), *(f"{key}={value}" for key, value in places.items())]
    reply = worker.ask("train", arguments, save=folder / "state.npz")
    assert "error" not in reply, reply
    return SimpleNamespace(
      folder=folder, leaves=dict(np.load(folder / "state.npz")), rows=read_rows(folder / "metrics.jsonl")
    )

  return train_run


@pytest.fixture(scope="module")
def trunk(train, manifest):
  return train(manifest.runs[0])


def test_a_branch_waits_for_its_trunks_checkpoint(manifest):
  with pytest.raises(RunError, match="has no checkpoint of step 6 yet, run it first"):
    branch(manifest, manifest.find("study-gmp-start-step-8"))


@pytest.mark.usefixtures("trunk")
def test_a_branched_run_ends_as_the_run_trained_alone(train, manifest, tmp_path):
  run = manifest.find("study-gmp-start-step-8")
  branch(manifest, run)
  assert checkpoint_steps(manifest, run) == [6]
  branched, alone = train(run), train(run, str(tmp_path))
  assert is_finished(manifest, run)
  assert_close(branched.leaves, alone.leaves)
  assert [row.keys() for row in branched.rows] == [row.keys() for row in alone.rows]
  for ours, theirs in zip(branched.rows, alone.rows):
    for name in ("step", "run_name", "pruning/nonzero_prunable", "pruning/average_params", "learning/total_weights"):
      assert ours.get(name) == theirs.get(name), name
    for name in ("learning/loss", "eval/avg_loss"):
      assert ours.get(name, 0) == pytest.approx(theirs.get(name, 0), rel=RELATIVE_LOSS), name
  assert events_of(branched.folder) == events_of(alone.folder)


@pytest.mark.usefixtures("trunk")
def test_branching_is_done_once_and_whole(manifest):
  run = manifest.find("study-gmp-start-step-6")
  folder, trunk_folder = (Path(manifest.run_directory(r)) for r in (run, manifest.runs[0]))
  # What a call killed in the middle of copying leaves behind.
  (folder / "checkpoints" / ".4.branching" / "items").mkdir(parents=True)
  branch(manifest, run)
  assert [path.name for path in (folder / "checkpoints").iterdir()] == ["4"]
  assert files_in(folder / "checkpoints" / "4") == files_in(trunk_folder / "checkpoints" / "4")
  (folder / "metrics.jsonl").write_text("mine")
  branch(manifest, run)
  assert (folder / "metrics.jsonl").read_text() == "mine"


def assert_close(ours, theirs):
  """Every leaf of the train state, as the mean difference over the mean magnitude; whole numbers exactly."""
  assert ours.keys() == theirs.keys()
  for name, leaf in ours.items():
    other = theirs[name]
    if np.issubdtype(leaf.dtype, np.floating):
      assert np.abs(leaf - other).mean() <= RELATIVE_WEIGHTS * np.abs(other).mean(), name
    else:
      np.testing.assert_array_equal(leaf, other, err_msg=name)


def events_of(folder):
  """Step and number of weights left, which are exact, of each recorded event."""
  found = [json.loads(path.read_text()) for path in sorted((folder / "sparsity").glob("event_*.json"))]
  return [(event["step"], event["nonzero_prunable"], event["target_density"]) for event in found]


def files_in(folder):
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
