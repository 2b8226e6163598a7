"""An export computes what MaxText computes: logits on real prompts, of models that real MaxText trained sparse.

One process trains all models and computes their logits with MaxText; a small Llama in numpy computes the folders'.
"""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from maxtext_sparse.evaluation.numpy_llama import NumpyLlama
from maxtext_sparse.export import llama
from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.export.read_back import import_folder
from maxtext_sparse.export.write import export_checkpoint, ExportOptions
from maxtext_sparse.inspection.verify import verify
from maxtext_sparse.local.corpus import build_corpus, CorpusSettings
from maxtext_sparse.weights.folder import ModelFolder
from tests.hooks.harness import arguments, environment

TOLERANCE = 1e-4
SPARSE = {"sparsity": 0.6, "gmp_start_step": 3, "gmp_end_step": 6, "gmp_pruning_frequency": 1, "steps": 12}
# A high learning rate moves norms and queries away from where a mistake in them would not show.
TRAINING = {"learning_rate": 2e-2, "enable_checkpointing": True, "checkpoint_period": 100, "per_device_batch_size": 4}
VARIANTS = {
  # Scanned, fewer key and value heads than query heads, head_dim 16.
  "grouped": {"base_num_kv_heads": 2},
  # Unscanned, a tied head, and a head size whose root is no power of 2.
  "tied": {"scan_layers": False, "logits_via_embedding": True, "head_dim": 8},
  # The rotary embedding that rotates neighbours, with scaled frequencies.
  "llama3": {"rope_type": "llama3.1", "rope_max_timescale": 500_000},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """A small corpus of real text, and prompts from its held-out part [4, 32]."""
  import pyarrow.parquet
  import sentencepiece

  settings = CorpusSettings(train_chars=400_000, eval_chars=40_000, vocab_size=512)
  corpus = build_corpus(str(tmp_path_factory.mktemp("corpus") / "corpus"), settings=settings)
  processor = sentencepiece.SentencePieceProcessor(model_file=corpus.vocabulary_file)
  texts = pyarrow.parquet.read_table(corpus.eval_file)["text"].to_pylist()
  prompts = [tokens for tokens in map(processor.encode, texts) if len(tokens) >= 31]
  keys = {
    "dataset_type": "grain",
    "grain_file_type": "parquet",
    "grain_train_files": corpus.train_file,
    "grain_worker_count": 0,
    "tokenizer_type": "sentencepiece",
    "tokenizer_path": corpus.vocabulary_file,
    "train_data_columns": "[text]",
  }
  return keys, [[processor.bos_id(), *tokens[:31]] for tokens in prompts[:4]]


@pytest.fixture(scope="module")
def models(tmp_path_factory, data):
  """Folder of the runs and of MaxText's logits, NAME.npz."""
  out = tmp_path_factory.mktemp("models")
  keys, tokens = data
  cases = []
  for name, variant in VARIANTS.items():
    train = arguments(out, name, **TRAINING | SPARSE | keys | variant)
    load = [*train, f"load_parameters_path={out}/{name}/checkpoints/11/items"]
    cases.append({"name": name, "train": train, "load": load, "tokens": tokens})
  run_worker(out, cases)
  return out


def run_worker(out, cases):
  (out / "cases.json").write_text(json.dumps(cases, default=str))
  process = subprocess.run(
    [sys.executable, "-m", "tests.export.maxtext_worker", out / "cases.json", out],
    capture_output=True,
    text=True,
    check=False,
    env=environment(),
  )
  assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]


def maxtext_logits(models, name):
  return np.load(models / f"{name}.npz")["logits"]


def folder_logits(folder, data):
  return NumpyLlama(ModelFolder(str(folder))).logits(np.array(data[1]))


@pytest.mark.release
@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_maxtexts(tmp_path, models, data, name):
  result = export_checkpoint(str(models / name), str(tmp_path / "hf"), [])
  assert result.certificate["density"] == pytest.approx(0.4, abs=1e-4)
  ours, theirs = folder_logits(tmp_path / "hf", data), maxtext_logits(models, name)
  assert np.abs(ours - theirs).max() <= TOLERANCE, np.abs(theirs).max()
  np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))
  assert verify(str(tmp_path / "hf")).is_ok


MISTAKES = {
  "queries are not scaled": ("grouped", lambda shape: dataclasses.replace(shape, head_dim=1)),
  "halves are taken for neighbours": ("grouped", lambda shape: dataclasses.replace(shape, is_rope_interleaved=True)),
  "neighbours are taken for halves": ("llama3", lambda shape: dataclasses.replace(shape, is_rope_interleaved=False)),
  "tied logits are not divided": ("tied", lambda shape: dataclasses.replace(shape, is_head_normalized=False)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_mapping_would_be_seen(tmp_path, models, data, monkeypatch, mistake):
  name, change = MISTAKES[mistake]
  correct = llama._to_weight
  monkeypatch.setattr(llama, "_to_weight", lambda path, part, shape: correct(path, part, change(shape)))
  export_checkpoint(str(models / name), str(tmp_path / "hf"), [])
  difference = np.abs(folder_logits(tmp_path / "hf", data) - maxtext_logits(models, name)).max()
  assert difference > 100 * TOLERANCE, difference


def test_a_tied_head_that_is_not_rounded_would_be_seen(tmp_path, models, data):
  """MaxText rounds the embedding to bfloat16 in the head; a tied float32 folder would differ by this much."""
  export_checkpoint(str(models / "tied"), str(tmp_path / "hf"), [])
  model = NumpyLlama(ModelFolder(str(tmp_path / "hf")))
  model._weights["lm_head.weight"] = model._weights["model.embed_tokens.weight"]
  difference = np.abs(model.logits(np.array(data[1])) - maxtext_logits(models, "tied")).max()
  assert difference > TOLERANCE, difference


def test_narrow_dtypes_and_the_bitmask_format_stay_close(tmp_path, models, data):
  theirs = maxtext_logits(models, "grouped")
  for dtype in ("bfloat16", "float16"):
    options = ExportOptions(dtype=dtype, weights_format="bitmask")
    export_checkpoint(str(models / "grouped"), str(tmp_path / dtype), [], options)
    assert np.abs(folder_logits(tmp_path / dtype, data) - theirs).max() < 0.02 * np.abs(theirs).max()


@pytest.mark.release
def test_maxtext_loads_an_imported_folder_and_computes_the_same(tmp_path, models, data):
  export_checkpoint(str(models / "grouped"), str(tmp_path / "hf"), [])
  result = import_folder(str(tmp_path / "hf"), str(tmp_path / "mt"))
  keys, tokens = data
  load = [
    result.config,
    *arguments(tmp_path, "again", **TRAINING | keys | VARIANTS["grouped"]),
    f"load_parameters_path={result.checkpoint}",
  ]
  run_worker(tmp_path, [{"name": "again", "load": load, "tokens": tokens}])
  np.testing.assert_array_equal(maxtext_logits(tmp_path, "again"), maxtext_logits(models, "grouped"))


@pytest.fixture(scope="module")
def continued(tmp_path_factory, models, data):
  """What MaxText makes of the imported export of the run `grouped`: `held`, trained further."""
  out = tmp_path_factory.mktemp("continued")
  export_checkpoint(str(models / "grouped"), str(out / "hf"), [])
  imported = import_folder(str(out / "hf"), str(out / "mt"))
  usual = TRAINING | data[0] | VARIANTS["grouped"]
  hold = arguments(out, "held", **usual | {"pruning_method": "hold", "steps": 6})
  run_worker(out, [{"name": "held", "train": [imported.config, *hold]}])
  return out


def kernels(checkpoint):
  return {name: matrix for name, matrix in Checkpoint(str(checkpoint)).matrices()}


@pytest.mark.slow
def test_training_an_imported_folder_with_hold_keeps_its_zeros(continued, models):
  before, after = kernels(models / "grouped"), kernels(continued / "held")
  assert before.keys() == after.keys()
  for name, matrix in before.items():
    np.testing.assert_array_equal(after[name] == 0, matrix == 0, err_msg=name)
    assert not np.array_equal(after[name], matrix), f"{name} was not trained"
