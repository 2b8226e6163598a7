"""Training on preferences (`train_dpo`) with `hold`: the sparse model learns from pairs of answers and keeps its zeros.

The trainer needs tunix, which the environment of pre-training has no room for: `bash .ci/tunix` builds .venv-tunix.
"""

import os
from pathlib import Path
import subprocess

import numpy as np
import pytest

from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.pruning.prunable import is_linear_kernel
from tests.faults.conftest import nursery
from tests.faults.harness import SAVING
from tests.hooks.harness import arguments, environment, read_rows
from tests.hooks.instructions import preference_data

PYTHON = Path(os.environ.get("MAXTEXT_SPARSE_TUNIX_PYTHON", Path(__file__).parents[2] / ".venv-tunix" / "bin" / "python"))

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not PYTHON.exists(), reason="tunix is not installed; bash .ci/tunix installs it"),
]

__all__ = ["nursery"]

# This trainer takes models only that MaxText has in its tables for vLLM.
MODEL = {"model_name": "qwen3-0.6b", "override_model_config": True, "base_num_kv_heads": 2, "max_target_length": 64}
STEPS = 12
PREFERENCES = {
  "steps": STEPS,
  "checkpoint_period": STEPS,
  "per_device_batch_size": 4,
  "learning_rate": 1e-3,
  "eval_interval": -1,
  "grain_worker_count": 0,
}
HOLD = {"pruning_method": "hold"}


@pytest.fixture(scope="module")
def start(nursery, out, text_data) -> Path:
  """A checkpoint of a model that was pruned to 60 % while it read text."""
  pruning = {"sparsity": 0.6, "gmp_start_step": 4, "gmp_end_step": 16, "gmp_pruning_frequency": 4}
  nursery.train(out, "preferences-start", **text_data | MODEL | SAVING | pruning, pruning_score="magnitude_rms")
  return out / "preferences-start" / "checkpoints" / "19" / "items"


@pytest.fixture(scope="module")
def data(text_data, tmp_path_factory):
  return preference_data(tmp_path_factory.mktemp("preferences") / "sums", text_data) | MODEL | SAVING | PREFERENCES


@pytest.fixture(scope="module")
def train(out, data, start):
  """Runs `train_dpo` as a user does; returns its checkpoints' folder and what it printed."""

  def train(name: str, **keys) -> tuple[Path, str]:
    words = arguments(out, name, **data | {"load_parameters_path": start} | keys)
    command = [str(PYTHON), "-m", "maxtext_sparse", "run", "maxtext.trainers.post_train.dpo.train_dpo", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return out / name / "checkpoints", done.stderr

  return train


def weights(folder: Path) -> dict[str, np.ndarray]:
  """All arrays of a checkpoint, by path."""
  checkpoint = Checkpoint(str(folder))
  return {path: checkpoint.read(path) for path in checkpoint.leaves}


def linear(folder: Path) -> dict[str, np.ndarray]:
  """Those that are pruned."""
  checkpoint = Checkpoint(str(folder))
  return {p.path: checkpoint.read(p.path) for p in checkpoint.parameters() if is_linear_kernel(p)}


def losses(out: Path, name: str) -> list[float]:
  return [row["learning/loss"] for row in read_rows(out / f"{name}.jsonl") if "learning/loss" in row]


def assert_held(start: Path, checkpoints: Path) -> None:
  """The linear layers were trained, and exactly the zeros of the start are zero."""
  before, after = linear(start), linear(checkpoints)
  assert before.keys() == after.keys() and len(before) == 7
  for path, weight in before.items():
    np.testing.assert_array_equal(after[path] == 0, weight == 0, err_msg=path)
    assert np.any(after[path] != weight), path


@pytest.fixture(scope="module")
def held(train) -> tuple[Path, str]:
  return train("preferences-held", **HOLD)


def test_hold_keeps_exactly_the_zeros_of_the_checkpoint(held, start, out):
  checkpoints, log = held
  assert_held(start, checkpoints)
  num_live = sum(int(np.count_nonzero(weight)) for weight in linear(start).values())
  assert f"{num_live} of them are live" in log
  seen = losses(out, "preferences-held")
  assert seen[0] == pytest.approx(np.log(2), abs=1e-3), "the model and its reference begin as one"
  assert seen[-1] < 0.9 * seen[0]


def test_a_resumed_run_holds_them_too(held, train, start):
  checkpoints, _ = train("preferences-held", **HOLD, steps=STEPS + 4)
  assert {str(STEPS), str(STEPS + 4)} <= {path.name for path in checkpoints.iterdir()}
  assert_held(start, checkpoints)


def test_gradients_are_accumulated_and_clipped_as_those_of_the_sparse_model(train, start):
  """With sgd and a small threshold, one update has exactly the norm learning rate x threshold."""
  keys = {"opt_type": "sgd", "steps": 1, "learning_rate": 1.0, "warmup_steps_fraction": 0.0}
  keys["learning_rate_final_fraction"] = 1.0  # MaxText begins a run of one step at the end of its decay
  accumulated = {"gradient_accumulation_steps": 2, "gradient_clipping_threshold": 1e-2}
  checkpoints, _ = train("preferences-clipped", **HOLD, **keys, **accumulated)
  assert_held(start, checkpoints)
  before, after = weights(start), weights(checkpoints)
  squares = [np.sum(np.square(after[path].astype(np.float64) - before[path])) for path in before]
  assert np.sqrt(sum(squares)) == pytest.approx(1e-2, rel=1e-3)


def test_without_hold_the_zeros_grow_back(train, start):
  """What `hold` is for. A dense run is left alone."""
  checkpoints, _ = train("preferences-dense")
  assert all(np.count_nonzero(weight) == weight.size for weight in linear(checkpoints).values())
