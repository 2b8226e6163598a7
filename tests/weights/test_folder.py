"""Folders of Hugging Face models: which tensors are linear, and what a missing file means."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.weights import bitmask
from maxtext_sparse.weights.folder import is_linear, kind_of, layer_of, load_dense, ModelFolder
from maxtext_sparse.weights.safetensors import DamagedFileError

LINEAR = [
  "lm_head.weight",
  "model.layers.0.self_attn.q_proj.weight",
  "model.layers.11.mlp.gate_proj.weight",
  "model.layers.3.mlp.experts.7.w1.weight",
  "transformer.h.0.attn.c_attn.weight",
]
NOT_LINEAR = [
  "model.embed_tokens.weight",
  "transformer.wte.weight",
  "model.layers.0.mlp.gate.weight",
  "model.layers.0.block_sparse_moe.gate.weight",
  "model.layers.0.mlp.shared_expert_gate.weight",
]


def test_linear_layers_are_told_by_name_and_shape():
  assert all(is_linear(name, (8, 4)) for name in LINEAR)
  assert not any(is_linear(name, (8, 4)) for name in NOT_LINEAR)
  assert not is_linear("model.layers.0.input_layernorm.weight", (8,))


def test_layer_and_kind_of_a_name():
  assert layer_of("model.layers.11.mlp.up_proj.weight") == 11
  assert layer_of("lm_head.weight") is None
  assert kind_of("model.layers.11.mlp.up_proj.weight") == "mlp.up_proj"
  assert kind_of("lm_head.weight") == "lm_head"


def test_names_are_in_the_order_of_layers(tmp_path):
  save_file({f"model.layers.{i}.q.weight": np.ones((2, 2), np.float32) for i in (10, 9, 2)}, tmp_path / "a.safetensors")
  assert [layer_of(name) for name in ModelFolder(str(tmp_path)).names()] == [2, 9, 10]


def test_dense_and_bitmask_tensors_read_alike(tmp_path):
  weight = np.array([[0, 1, 0], [2, 0, 0]], np.float32)
  fields = {f"b.weight.{field}": array for field, array in bitmask.pack(weight).items()}
  save_file({"a.weight": weight, **fields}, tmp_path / "x.safetensors")
  folder = ModelFolder(str(tmp_path))
  assert folder.names() == ["a.weight", "b.weight"] and not folder.is_sparse("a.weight") and folder.is_sparse("b.weight")
  for _, array in load_dense(str(tmp_path)):
    np.testing.assert_array_equal(array, weight)
  for name in ("a.weight", "b.weight"):
    assert folder.shape(name) == (2, 3) and folder.dtype(name) == np.float32
    np.testing.assert_array_equal(folder.read_fields(name)["compressed"], [1, 2])


def test_a_shard_that_the_index_names_and_that_is_missing_is_named(tmp_path):
  save_file({"a": np.ones(2)}, tmp_path / "model-00001-of-00002.safetensors")
  index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
  with pytest.raises(DamagedFileError, match=r"model-00002-of-00002\.safetensors"):
    ModelFolder(str(tmp_path))


def test_no_folder_and_no_weights_are_one_line(tmp_path):
  with pytest.raises(ConfigError, match="no such folder"):
    ModelFolder(str(tmp_path / "none"))
  with pytest.raises(ConfigError, match=r"no \.safetensors file"):
    ModelFolder(str(tmp_path))
