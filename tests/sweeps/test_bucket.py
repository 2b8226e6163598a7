"""A sweep in a bucket: the same calls as for a folder, on an in-memory file system under gs:// names."""

import json

from etils import epath
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.sweeps.branch import branch
from maxtext_sparse.sweeps.collect import collect
from maxtext_sparse.sweeps.make import make
from maxtext_sparse.sweeps.state import all_statuses, checkpoint_steps, is_finished, latest
from tests.runs.memory_bucket import memory_bucket

__all__ = ["memory_bucket"]


@pytest.fixture
def manifest(write_spec, tmp_path, memory_bucket):
  del memory_bucket
  spec = write_spec(trunk=True, output_directory="gs://bucket/sweep", axes={"sparsity": [0.5, 0.8]})
  return make(spec, str(tmp_path / "sweep"))


def write(path, text=""):
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def upload(manifest, run, first, last, *rows):
  """A metrics file as MaxText uploads them."""
  name = f"metrics_step_{first:06}_to_step_{last:06}.txt"
  write(f"{manifest.run_directory(run)}/metrics/{name}", "".join(json.dumps(row) + "\n" for row in rows))


def save(manifest, run, step, is_complete=True):
  folder = f"{manifest.run_directory(run)}/checkpoints/{step}"
  write(f"{folder}/items/weights", f"weights of {run.name}")
  if is_complete:
    write(f"{folder}/commit_success.txt")


def test_a_checkpoint_counts_when_its_last_file_is_there(manifest):
  run = manifest.runs[1]
  upload(manifest, run, 0, 49, {"step": 49.0, "learning/loss": 4.0})
  upload(manifest, run, 50, 99, {"step": 99.0, "eval/avg_loss": 2.5}, {"step": 99.0, "learning/loss": 2.25})
  save(manifest, run, 99, is_complete=False)
  assert not is_finished(manifest, run)
  save(manifest, run, 99)
  assert is_finished(manifest, run) and latest(manifest, run)[0]["learning/loss"] == 2.25
  (row,) = collect(manifest.directory, is_unfinished_allowed=True)
  assert (row["run"], row["loss"]) == ("tiny-s50", 2.5)


def test_a_branch_is_copied_within_the_bucket(manifest):
  trunk, _, run = manifest.runs
  save(manifest, trunk, run.branch_step)
  rows = [{"step": float(step), "learning/loss": 5.0, "run_name": trunk.name} for step in range(trunk.steps)]
  upload(manifest, trunk, 0, trunk.steps - 1, *rows)
  # What a copy leaves behind that was stopped in the middle.
  save(manifest, run, run.branch_step, is_complete=False)
  write(f"{manifest.run_directory(run)}/checkpoints/{run.branch_step}/items/torn")
  branch(manifest, run)
  assert checkpoint_steps(manifest, run) == [run.branch_step]
  items = epath.Path(manifest.run_directory(run)) / "checkpoints" / str(run.branch_step) / "items"
  assert {path.name: path.read_text() for path in items.iterdir()} == {"weights": f"weights of {trunk.name}"}
  train, _ = latest(manifest, run)
  assert (train["step"], train["run_name"]) == (run.branch_step, run.name)


def test_a_changed_config_of_a_run_that_has_begun_is_refused(manifest, write_spec):
  save(manifest, manifest.runs[1], 0)
  changed = write_spec(trunk=True, output_directory="gs://bucket/sweep", axes={"sparsity": [0.5, 0.8]}, set={"steps": 90})
  with pytest.raises(ConfigError, match="run tiny-s50: has begun, the sweep file now gives it"):
    make(changed, manifest.directory)


def test_the_folder_of_a_sweep_itself_is_on_this_machine(write_spec):
  with pytest.raises(ConfigError, match="--out=gs://bucket/made: must be a folder of this machine"):
    make(write_spec(), "gs://bucket/made")


def test_a_sweep_is_listed_once(manifest, memory_bucket):
  for run in manifest.runs:
    save(manifest, run, run.steps - 1)
    upload(manifest, run, 0, 99, {"step": 99.0, "learning/loss": 4.0}, {"step": 99.0, "eval/avg_loss": 2.5})
  memory_bucket.num_listings = 0
  rows = all_statuses(manifest, manifest.runs, is_active=False)
  assert [status.state for _, status in rows] == ["done"] * 3
  assert memory_bucket.num_listings == 1
