"""Fixtures: sweeps made from files written here, and from the shipped ones."""

from pathlib import Path

import pytest
import yaml

from maxtext_sparse.sweeps.make import make
from tests.hooks.conftest import out, text_data, worker  # noqa: F401 (fixtures)

SHIPPED = Path(__file__).parents[2] / "configs" / "sweeps"

# A model small enough to be read in no time.
TINY = {
  "base_emb_dim": 32,
  "base_mlp_dim": 64,
  "base_num_decoder_layers": 1,
  "base_num_query_heads": 4,
  "base_num_kv_heads": 4,
  "head_dim": 8,
  "vocab_size": 512,
  "max_target_length": 64,
  "per_device_batch_size": 8,
  "dataset_type": "grain",
  "grain_file_type": "parquet",
  "grain_train_files": "train.parquet",
  "grain_eval_files": "eval.parquet",
  "tokenizer_type": "sentencepiece",
  "steps": 100,
  "eval_interval": 50,
  "gmp_pruning_frequency": 2,
}


@pytest.fixture
def write_spec(tmp_path):
  """Writes a sweep file over the tiny model and returns its path."""
  (tmp_path / "tiny.yml").write_text(yaml.safe_dump(TINY))

  def write(**fields):
    path = tmp_path / "spec.yml"
    path.write_text(yaml.safe_dump({"name": "tiny", "base": "tiny.yml", "axes": {"sparsity": [0.5]}} | fields))
    return str(path)

  return write


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
  """Makes a shipped sweep, once."""
  made = {}

  def get(name):
    if name not in made:
      made[name] = make(str(SHIPPED / f"{name}.yml"), str(tmp_path_factory.mktemp("shipped") / name))
    return made[name]

  return get
