"""What follows a checkpoint: a dense or sparse model learns instructions; a dense one is pruned from step 0 of a run."""

import json
from pathlib import Path

import numpy as np
import pytest

from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.export.write import export_checkpoint
from maxtext_sparse.pruning.prunable import is_linear_kernel
from tests.faults.conftest import nursery
from tests.faults.harness import SAVING
from tests.hooks.harness import arguments, read_rows
from tests.hooks.instructions import instruction_data

pytestmark = pytest.mark.slow

__all__ = ["nursery"]

# The demo's model with a smaller vocabulary.
DEMO = {
  "base_emb_dim": 128,
  "base_mlp_dim": 256,
  "base_num_decoder_layers": 3,
  "head_dim": 32,
  "vocab_size": 512,
  "max_target_length": 128,
}
NUM_PRUNABLE = 3 * (4 * 128 * 128 + 3 * 128 * 256) + 128 * 512
# Events at 0, 5, ..., 20 of 30 steps.
FROM_STEP_0 = {"gmp_start_step": 0, "gmp_end_step": 20, "gmp_pruning_frequency": 5}
STEPS = 30


def linear_weights(run: Path, step: int = STEPS - 1) -> dict[str, np.ndarray]:
  """The linear layers of a run's checkpoint, by path."""
  return linear_weights_in(run / "checkpoints" / str(step))


def linear_weights_in(folder: Path) -> dict[str, np.ndarray]:
  checkpoint = Checkpoint(str(folder))
  return {p.path: checkpoint.read(p.path) for p in checkpoint.parameters() if is_linear_kernel(p)}


def num_live(run: Path, step: int = STEPS - 1) -> int:
  return sum(int(np.count_nonzero(weight)) for weight in linear_weights(run, step).values())


def losses(out: Path, name: str) -> list[float]:
  return [row["learning/loss"] for row in read_rows(out / f"{name}.jsonl") if "learning/loss" in row]


@pytest.fixture(scope="module")
def saving(text_data):
  return text_data | DEMO | SAVING | {"steps": STEPS, "checkpoint_period": STEPS}


@pytest.fixture(scope="module")
def dense(nursery, out, saving) -> Path:
  """A dense model of text."""
  nursery.train(out, "start-dense", **saving)
  return out / "start-dense"


@pytest.fixture(scope="module")
def sparse(nursery, out, saving) -> Path:
  """The same, 80 % sparse. By plain magnitude so short a run would lose all of its query weights."""
  nursery.train(out, "start-sparse", **saving, sparsity=0.8, pruning_score="magnitude_rms", **FROM_STEP_0)
  return out / "start-sparse"


@pytest.fixture(scope="module")
def fine_tune(nursery, out, saving, text_data, tmp_path_factory):
  """Runs `train_sft_native` on instructions to its end; returns its folder."""
  data = instruction_data(tmp_path_factory.mktemp("instructions") / "sums", text_data)
  without_text = {key: value for key, value in saving.items() if not key.startswith(("grain_", "eval_"))}

  def fine_tune(name: str, start: Path, **keys) -> Path:
    items = start / "checkpoints" / str(STEPS - 1) / "items"
    child = nursery.start(out, name, call="fine_tune", **(without_text | data | keys), load_parameters_path=items)
    assert child.wait() == 0, child.log.read_text()[-3000:]
    return out / name

  return fine_tune


def test_hold_keeps_exactly_the_zeros_of_the_checkpoint(fine_tune, sparse, out):
  before = linear_weights(sparse)
  after = linear_weights(fine_tune("sft-hold", sparse, pruning_method="hold"))
  assert before.keys() == after.keys() and len(before) == 8
  for path, weight in before.items():
    np.testing.assert_array_equal(after[path] == 0, weight == 0, err_msg=path)
    assert np.any(after[path] != weight), path
  assert losses(out, "sft-hold")[-1] < losses(out, "sft-hold")[0] / 2
  rows = read_rows(out / "sft-hold.jsonl")
  assert {row["pruning/nonzero_prunable"] for row in rows if "learning/loss" in row} == {num_live(sparse)}


def test_without_hold_the_zeros_grow_back(fine_tune, sparse):
  """What `hold` is for."""
  assert num_live(fine_tune("sft-no-hold", sparse)) == NUM_PRUNABLE > num_live(sparse)


@pytest.mark.parametrize("keys", [{"sparsity": 0.5}, {"pruning_structure": "2:4"}], ids=["unstructured", "2:4"])
def test_a_dense_model_is_pruned_while_it_learns_instructions(fine_tune, dense, out, keys):
  name = f"sft-{len(keys)}-{next(iter(keys))}"
  run = fine_tune(name, dense, **keys, **FROM_STEP_0)
  assert num_live(dense) == NUM_PRUNABLE
  assert num_live(run) == NUM_PRUNABLE // 2
  assert losses(out, name)[-1] < losses(out, name)[0]
  assert len(list((run / "sparsity").glob("event_*.json"))) == 5


def test_pre_training_prunes_the_parameters_of_a_dense_checkpoint_from_step_0(nursery, out, saving, dense):
  items = dense / "checkpoints" / str(STEPS - 1) / "items"
  run = nursery.train(out, "from-parameters", **saving, sparsity=0.8, load_parameters_path=items, **FROM_STEP_0)
  assert run.column("step")[0] == 0 and len(run.event_files()) == 5
  assert num_live(run.folder) == NUM_PRUNABLE - round(0.8 * NUM_PRUNABLE)
  assert run.column("learning/loss")[0] < losses(out, "start-dense")[0] - 1


def test_a_full_state_goes_on_at_its_own_step(nursery, out, saving, dense):
  """`load_full_state_path` restores the step too, so events at earlier steps would never come."""
  items = dense / "checkpoints" / str(STEPS - 1) / "items"
  longer = saving | {"steps": 2 * STEPS, "checkpoint_period": 2 * STEPS, "sparsity": 0.8, "load_full_state_path": items}
  child = nursery.start(out, "from-state-refused", **longer, **FROM_STEP_0)
  assert child.wait() != 0
  assert "the last event, step 20, is over; extend gmp_end_step" in child.log.read_text()
  later = {"gmp_start_step": STEPS, "gmp_end_step": STEPS + 20, "gmp_pruning_frequency": 5}
  run = nursery.train(out, "from-state", **longer, **later)
  assert run.column("step")[0] == STEPS and len(run.event_files()) == 5
  assert num_live(run.folder, 2 * STEPS - 1) == NUM_PRUNABLE - round(0.8 * NUM_PRUNABLE)
  assert run.column("learning/loss")[0] < losses(out, "start-dense")[0] - 1


@pytest.fixture(scope="module")
def imported(nursery, dense, tmp_path_factory) -> Path:
  """The dense model as a Hugging Face folder, and that as a MaxText checkpoint of parameters."""
  folder = tmp_path_factory.mktemp("imported")
  export_checkpoint(str(dense), str(folder / "hf"), [])
  child = nursery.command("import", str(folder / "hf"), str(folder / "mt"))
  assert child.wait() == 0, child.log.read_text()
  for path, weight in linear_weights(dense).items():
    np.testing.assert_allclose(linear_weights_in(folder / "mt" / "0")[path], weight, rtol=1e-6, err_msg=path)
  return folder / "mt"


@pytest.fixture(scope="module")
def loss_of_dense(nursery, out, saving, dense) -> float:
  """The trained dense model's loss on the first batch, by MaxText without the plugin."""
  items = dense / "checkpoints" / str(STEPS - 1) / "items"
  nursery.train(out, "dense-again", call="stock", **saving | {"steps": 1}, load_parameters_path=items)
  return losses(out, "dense-again")[0]


FROM_FOLDER = {"unstructured": {"sparsity": 0.5}, "2:4": {"pruning_structure": "2:4"}}


@pytest.fixture(scope="module")
def pruned(request, nursery, out, saving, imported) -> Path:
  """A run that prunes the imported folder from its step 0 on, as a user starts it."""
  name = f"from-folder-{request.param}"
  words = arguments(out, name, **saving | FROM_FOLDER[request.param] | FROM_STEP_0, per_device_batch_size=8)
  child = nursery.command("train", str(imported / "model.yml"), *words)
  assert child.wait() == 0, child.log.read_text()[-3000:]
  return out / name


def events(run: Path) -> list[dict]:
  return [json.loads(path.read_text()) for path in sorted((run / "sparsity").glob("event_*.json"))]


@pytest.mark.parametrize("pruned", FROM_FOLDER, indirect=True)
def test_a_hugging_face_folder_is_pruned_from_step_0(out, pruned, loss_of_dense):
  assert losses(out, pruned.name)[0] == pytest.approx(loss_of_dense, rel=1e-5), "the first step is the dense model's"
  assert [event["step"] for event in events(pruned)] == [0, 5, 10, 15, 20]
  assert num_live(pruned) == NUM_PRUNABLE // 2


@pytest.mark.parametrize("pruned", ["unstructured"], indirect=True)
def test_its_first_event_ranks_the_weights_of_the_folder(pruned, imported):
  first = events(pruned)[0]
  sizes = [np.abs(weight).ravel() for weight in linear_weights_in(imported / "0").values()]
  ranked = np.sort(np.concatenate(sizes))[::-1]
  assert ranked[first["nonzero_prunable"]] < first["threshold"] <= ranked[first["nonzero_prunable"] - 1]


@pytest.mark.parametrize("pruned", ["2:4"], indirect=True)
def test_each_group_of_its_inputs_complies_in_the_end(pruned):
  matrices = list(Checkpoint(str(pruned)).matrices())
  assert len(matrices) == 3 * 7 + 1
  for name, matrix in matrices:  # [outputs, inputs]
    assert np.all(np.count_nonzero(matrix.reshape(-1, 4), axis=1) == 2), name
