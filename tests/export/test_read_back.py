"""A Hugging Face folder becomes a MaxText checkpoint and comes back bit for bit."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from maxtext_sparse.config_files import read_config
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.export.read_back import import_folder
from maxtext_sparse.export.write import export_checkpoint, ExportOptions
from maxtext_sparse.weights.folder import ModelFolder
from tests.export.models import config_of, random_parameters, save_model, SHAPE


def same_tensors(one, other):
  first, second = ModelFolder(str(one)), ModelFolder(str(other))
  assert first.names() == second.names()
  for name in first.names():
    assert first.dtype(name) == second.dtype(name)
    np.testing.assert_array_equal(first.read(name), second.read(name), err_msg=name)


def re_export(imported, out, shape=SHAPE, dtype="float32"):
  keys = [f"{key}={value}" for key, value in config_of(shape).items() if key in ("emb_dim",)]
  run = out.parent / "run"
  (run / "checkpoints").mkdir(parents=True)
  shutil.copytree(imported / "0", run / "checkpoints" / "0")
  (run / "sparsity").mkdir()
  (run / "sparsity" / "config.json").write_text(json.dumps(config_of(shape)))
  export_checkpoint(str(run / "checkpoints" / "0"), str(out), keys, ExportOptions(dtype=dtype))


@pytest.mark.parametrize("weights_format", ["dense", "bitmask"])
def test_a_folder_comes_back_bit_for_bit(tmp_path, checkpoint, exported, weights_format):
  export_checkpoint(str(checkpoint), str(tmp_path / "hf"), [], ExportOptions(weights_format=weights_format))
  result = import_folder(str(tmp_path / "hf"), str(tmp_path / "mt"))
  re_export(tmp_path / "mt", tmp_path / "again")
  same_tensors(exported, tmp_path / "again")
  assert result.nonzero == json.loads((exported / "sparsity.json").read_text())["nonzero"]


def test_the_checkpoint_is_the_one_that_was_exported(tmp_path, exported):
  import_folder(str(exported), str(tmp_path / "mt"))
  # MaxText 0.2.5 trains from a step's folder only, and tells it by this file.
  assert (tmp_path / "mt" / "0" / "_CHECKPOINT_METADATA").exists()
  imported, source = Checkpoint(str(tmp_path / "mt" / "0")), random_parameters()
  assert imported.leaves.keys() == source.keys()
  for path, value in source.items():
    np.testing.assert_array_equal(imported.read(path), value, err_msg=path)


@pytest.mark.parametrize("head_dim", [8, 24])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_head_size_that_is_no_power_of_4_comes_back_too(tmp_path, head_dim, dtype):
  shape = dataclasses.replace(SHAPE, head_dim=head_dim)
  export_checkpoint(str(save_model(tmp_path / "source", shape)), str(tmp_path / "hf"), [], ExportOptions(dtype=dtype))
  import_folder(str(tmp_path / "hf"), str(tmp_path / "mt"))
  re_export(tmp_path / "mt", tmp_path / "again", shape, dtype)
  same_tensors(tmp_path / "hf", tmp_path / "again")


def test_the_config_makes_the_model(tmp_path, exported):
  import_folder(str(exported), str(tmp_path / "mt"))
  config = read_config(str(tmp_path / "mt" / "model.yml"))
  assert (config["base_num_kv_heads"], config["head_dim"], config["vocab_size"]) == (2, 16, 96)
  assert config["load_parameters_path"] == str(tmp_path / "mt" / "0" / "items")


def changed(folder, target, **config):
  shutil.copytree(folder, target)
  path = target / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | config))
  return str(target)


@pytest.mark.parametrize(
  ("config", "expected"),
  [
    ({"model_type": "gpt2"}, "model_type='gpt2': only folders of the llama family"),
    ({"attention_bias": True}, "attention_bias=true"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "only the default rotary embedding"),
    ({"intermediate_size": 65}, r"mlp\.gate_proj\.weight: .* has shape \[64, 32\], config\.json makes it \[65, 32\]"),
    ({"num_hidden_layers": 4}, r"model\.layers\.3\..*: config\.json makes this tensor"),
    ({"num_hidden_layers": 2}, r"model\.layers\.2\..*: MaxText's LLaMA-2 model has no such parameter"),
  ],
)
def test_bad_input_is_one_line(tmp_path, exported, config, expected):
  with pytest.raises(ConfigError, match=expected) as error:
    import_folder(changed(exported, tmp_path / "hf", **config), str(tmp_path / "mt"))
  assert "\n" not in str(error.value) and not (tmp_path / "mt").exists()


def test_a_folder_with_a_bias_is_refused_by_name(tmp_path, exported):
  folder = changed(exported, tmp_path / "hf")
  save_file({"model.layers.0.self_attn.q_proj.bias": np.ones(64, np.float32)}, tmp_path / "hf" / "bias.safetensors")
  with pytest.raises(ConfigError, match=r"q_proj\.bias: MaxText's LLaMA-2 model has no such parameter"):
    import_folder(folder, str(tmp_path / "mt"))
