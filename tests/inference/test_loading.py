"""A loaded model computes what transformers computes from the same folder, and generates the same tokens."""
# Imports of torch come after the line that skips this file where torch is not installed.
# ruff: noqa: E402

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `inference`")
pytest.importorskip("transformers", reason="needs the extra `inference`")

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inference import load, SparseLinear
from maxtext_sparse.weights.safetensors import TensorFile
from tests.inference.cases import draw_weights
from tests.inference.models import edit_config, pack_model, prompt, reference, write_model, write_tensors

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def dense_folder(tmp_path_factory):
  return write_model(tmp_path_factory.mktemp("model") / "dense")


@pytest.fixture(scope="module", params=["dense", "packed"])
def folder(request, dense_folder, tmp_path_factory):
  if request.param == "dense":
    return dense_folder
  return pack_model(dense_folder, tmp_path_factory.mktemp("model") / "packed")


def logits(model, ids):
  with torch.inference_mode():
    return model(input_ids=ids).logits.float()


@pytest.mark.parametrize("num_tokens", [1, 8, 9, 40])
@pytest.mark.parametrize("values", ["fp32", "bf16"])
def test_logits_are_those_of_the_dense_model(folder, dense_folder, values, num_tokens):
  ids = prompt(num_tokens)
  expected = logits(reference(dense_folder, torch.float32), ids)
  torch.testing.assert_close(logits(load(folder, values, torch.float32), ids), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("num_tokens", [1, 40])
def test_in_bfloat16_they_are_as_near_as_those_of_the_dense_model_in_bfloat16(folder, dense_folder, num_tokens):
  ids = prompt(num_tokens)
  exact = logits(reference(dense_folder, torch.float32), ids)
  dense_error = (logits(reference(dense_folder, torch.bfloat16), ids) - exact).abs().max()
  assert (logits(load(folder, "bf16"), ids) - exact).abs().max() <= 1.5 * dense_error


@pytest.mark.parametrize("num_tokens", [8, 40])
def test_int8_is_nearer_than_torchs_int8(folder, dense_folder, num_tokens):
  from maxtext_sparse.inference.variants import make

  ids = prompt(num_tokens)
  exact = logits(reference(dense_folder, torch.float32), ids)
  torch_error = (logits(make("dense_int8", dense_folder, [0]), ids) - exact).square().mean()
  assert (logits(load(folder, "int8", torch.float32), ids) - exact).square().mean() <= torch_error


def test_generate_writes_the_tokens_of_the_dense_model(folder, dense_folder):
  model, dense = load(folder, "bf16", torch.float32), reference(dense_folder, torch.float32)
  ids = prompt(5)
  options = {"max_new_tokens": 20, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
  assert model.generate(ids, **options).tolist() == dense.generate(ids, **options).tolist()


def test_a_batch_gives_what_its_rows_give(folder):
  model = load(folder, "bf16", torch.float32)
  ids = prompt(3, num_rows=4)
  torch.testing.assert_close(logits(model, ids)[2], logits(model, ids[2:3])[0], rtol=0, atol=1e-5)


def test_all_linear_layers_are_sparse_and_short_inputs_leave_torchs_threads_as_they_were(folder):
  model = load(folder)
  assert not any(isinstance(module, torch.nn.Linear) for module in model.modules())
  assert sum(isinstance(module, SparseLinear) for module in model.modules()) == 2 * 7 + 1
  before = torch.get_num_threads()
  logits(model, prompt(1))
  assert torch.get_num_threads() == before


@pytest.mark.parametrize("layout", ["bitmask", "csr", "dense"])
def test_a_layout_can_be_chosen(dense_folder, layout):
  model = load(dense_folder, "bf16", torch.float32, layout=layout)
  assert {module.matrix.layout for module in model.modules() if isinstance(module, SparseLinear)} == {layout}
  expected = logits(reference(dense_folder, torch.float32), prompt(4))
  torch.testing.assert_close(logits(model, prompt(4)), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("changes", [{"has_bias": True}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4}])
def test_biases_tied_heads_and_any_number_of_heads(tmp_path, changes):
  folder = write_model(tmp_path / "dense", dtype=torch.float32, **changes)
  expected = logits(reference(folder, torch.float32), prompt(12))
  torch.testing.assert_close(logits(load(folder, "fp32"), prompt(12)), expected, rtol=0, atol=2e-5)
  assert load(folder).dtype == torch.float32  # as the folder's config says


def test_shapes_that_are_not_those_of_the_config_are_refused(tmp_path):
  folder = write_model(tmp_path / "dense")
  edit_config(folder, intermediate_size=104)
  with pytest.raises(ConfigError, match=r"proj\.weight has shape \(.*100.*\): config\.json makes it \(.*104"):
    load(folder)


def test_a_missing_and_an_unknown_tensor_are_refused(tmp_path):
  folder = write_model(tmp_path / "dense")
  edit_config(folder, num_hidden_layers=3)
  with pytest.raises(ConfigError, match=r"model\.layers\.2\.[a-z_.]+ is in none of its files"):
    load(folder)
  edit_config(folder, num_hidden_layers=1)
  with pytest.raises(ConfigError, match=r"model\.layers\.1\.[a-z_.]+ is in a file, but the model has no"):
    load(folder)


def test_a_packed_matrix_that_is_no_linear_layer_is_refused(tmp_path):
  folder = pack_model(write_model(tmp_path / "dense"), tmp_path / "packed")
  write_tensors(folder, {"model.extra.weight": draw_weights(4, 4, 0.5, seed=0)}, {"model.extra.weight"}, stem="more")
  with pytest.raises(ConfigError, match=r"model\.extra\.weight is packed, but it is no linear layer"):
    load(folder)


def test_a_packed_folder_is_read_without_a_copy(tmp_path):
  model = load(pack_model(write_model(tmp_path / "dense"), tmp_path / "packed"), "bf16", layout="bitmask")
  for array in (model.lm_head.matrix.values, model.lm_head.matrix.bitmask):
    while isinstance(array.base, np.ndarray):
      array = array.base
    assert isinstance(array, np.memmap)


def test_a_damaged_matrix_is_refused_by_name(tmp_path):
  folder = pack_model(write_model(tmp_path / "dense"), tmp_path / "packed")
  (path,) = folder.glob("*.safetensors")
  file = TensorFile(str(path))
  bits = file.tensors["lm_head.weight.bitmask"]
  content = bytearray(path.read_bytes())
  content[len(content) - max(tensor.end for tensor in file.tensors.values()) + bits.start + 5] ^= 1
  path.write_bytes(content)
  with pytest.raises(ConfigError, match=r"sparse\.safetensors: lm_head\.weight: bitmask of row 0 has"):
    load(folder)


def test_values_of_another_dtype_are_refused(dense_folder):
  with pytest.raises(ConfigError, match="values=fp8: must be fp32, bf16, int8"):
    load(dense_folder, "fp8")
