"""MaxText's own programs on a sparse checkpoint: decode, evaluation, and the checkpoint of parameters that decode wants.

Decode needs JetStream, which no registry has in a version that fits; `jetstream_stand_in` says what takes its place.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from maxtext_sparse.evaluation.numpy_llama import NumpyLlama
from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.export.write import export_checkpoint, ExportOptions
from maxtext_sparse.inspection.verify import verify
from maxtext_sparse.weights.folder import ModelFolder
from tests.hooks.conftest import text_settings
from tests.hooks.harness import arguments, environment, read_rows

# Flax's warning comes from MaxText 0.2.3.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The 'm.iter_modules:DeprecationWarning")]

MODEL = {"base_num_kv_heads": 2, "learning_rate": 2e-2}
SPARSE = {"sparsity": 0.6, "gmp_start_step": 3, "gmp_end_step": 6, "gmp_pruning_frequency": 1, "steps": 12}
SAVED = {"enable_checkpointing": True, "checkpoint_period": 100, "async_checkpointing": False}
EVALUATED = {"eval_interval": 1, "eval_steps": 4}
# With a learning rate of zero, every evaluation sees the loaded weights. MaxText 0.2.4 writes one with the next step.
UNCHANGED = {"learning_rate": 0.0, "steps": 2, "enable_checkpointing": True, "save_checkpoint_on_completion": False}
PROMPT = "the name of the module is"
# 16 places for the prompt, 16 for what follows; prefill gives the first token, each step one more.
# The older releases load no checkpoint without `enable_checkpointing`.
DECODED = {
  "enable_checkpointing": True,
  "max_prefill_predict_length": 16,
  "prompt": PROMPT,
  "attention": "dot_product",
  "per_device_batch_size": 1,
}
NUM_TOKENS = 17


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return text_settings(tmp_path_factory.mktemp("corpus") / "corpus", train_chars=400_000)


@pytest.fixture(scope="module")
def out(tmp_path_factory, data):
  """What the programs left behind."""
  folder = tmp_path_factory.mktemp("programs")
  trained = folder / "sparse" / "checkpoints" / "11" / "items"
  small = folder / "small" / "checkpoints" / "0" / "items"
  unrolled = folder / "unrolled" / "checkpoints" / "0" / "items"

  def call(kind, name, *settings):
    merged = {key: value for setting in (data, MODEL, *settings) for key, value in setting.items()}
    return {"call": kind, "name": name, "args": arguments(folder, name, **({"per_device_batch_size": 4} | merged))}

  calls = [
    call("train", "sparse", SPARSE, SAVED, EVALUATED),
    call("stock", "evaluated", UNCHANGED, EVALUATED, {"load_parameters_path": trained}),
    call("param_only", "small", SAVED, {"load_full_state_path": trained}),
    call("param_only", "unrolled", SAVED, {"load_full_state_path": trained, "force_unroll": True}),
    call("decode", "from_state", DECODED, {"load_parameters_path": trained}),
    call("decode", "from_small", DECODED, {"load_parameters_path": small}),
    call("decode", "from_unrolled", DECODED, {"load_parameters_path": unrolled, "scan_layers": False}),
  ]
  (folder / "calls.json").write_text(json.dumps(calls))
  done = subprocess.run(
    [sys.executable, "-m", "tests.export.inference_worker", folder / "calls.json", folder],
    capture_output=True,
    text=True,
    check=False,
    env=environment(),
  )
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
  return folder


def greedy(folder, data, count):
  """The tokens that the numpy model gives after the prompt."""
  import sentencepiece

  processor = sentencepiece.SentencePieceProcessor(model_file=str(data["tokenizer_path"]))
  model = NumpyLlama(ModelFolder(str(folder)))
  tokens = [processor.bos_id(), *processor.encode(PROMPT)]
  start = len(tokens)
  for _ in range(count):
    tokens.append(int(model.logits(np.array([tokens]))[0, -1].argmax()))
  return tokens[start:]


def exported(out, name, folder, *config):
  export_checkpoint(str(out / name), str(folder), list(config), ExportOptions(dtype="float32"))
  return folder


@pytest.mark.parametrize(("decoded", "source"), [("from_state", "sparse"), ("from_small", "small")])
def test_decode_writes_the_tokens_of_the_export(out, data, tmp_path, decoded, source):
  tokens = json.loads((out / f"{decoded}.json").read_text())
  assert tokens == greedy(exported(out, source, tmp_path / "hf"), data, NUM_TOKENS)
  assert len(set(tokens)) > 2, "a text of one token compares nothing"


def test_unrolled_layers_decode_the_same(out):
  read = lambda name: json.loads((out / f"{name}.json").read_text())
  assert read("from_unrolled") == read("from_small")


def test_stock_maxtext_evaluates_the_sparse_checkpoint_to_the_same_loss(out):
  loss = lambda name: [row["eval/avg_loss"] for row in read_rows(out / f"{name}.jsonl") if "eval/avg_loss" in row][-1]
  assert loss("evaluated") == pytest.approx(loss("sparse"), rel=1e-6)


@pytest.mark.parametrize("name", ["small", "unrolled"])
def test_a_parameters_only_checkpoint_has_the_zeros_and_is_exported(out, tmp_path, name):
  """MaxText writes it in bfloat16."""
  source = dict(Checkpoint(str(out / "sparse")).matrices())
  matrices = dict(Checkpoint(str(out / name)).matrices())
  assert sum(map(np.count_nonzero, matrices.values())) == sum(map(np.count_nonzero, source.values()))
  if name == "small":
    for path, matrix in source.items():
      np.testing.assert_array_equal(matrices[path] == 0, matrix == 0, err_msg=path)
  result = export_checkpoint(str(out / name), str(tmp_path / "hf"), [])
  assert result.certificate["density"] == pytest.approx(0.4, abs=1e-4)
  assert verify(str(tmp_path / "hf")).is_ok
