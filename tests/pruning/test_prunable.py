"""Which parameters are linear layers, by MaxText's names, and which of them a run prunes."""

from flax import nnx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from maxtext_sparse.config import SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.pruning.prunable import is_linear_kernel, Parameter, parameters_of, select_prunable

STACKED = (1,)  # MaxText's scan axis

LINEAR = [
  # llama
  ("decoder/layers/mlp/wi_0/kernel", (64, 2, 128), STACKED),
  ("decoder/layers/mlp/wi_1/kernel", (64, 2, 128), STACKED),
  ("decoder/layers/mlp/wo/kernel", (128, 2, 64), STACKED),
  ("decoder/layers/self_attention/query/kernel", (64, 2, 4, 16), STACKED),
  ("decoder/layers/self_attention/key/kernel", (64, 2, 4, 16), STACKED),
  ("decoder/layers/self_attention/out/kernel", (4, 2, 16, 64), STACKED),
  ("decoder/layers_0/mlp/wi_0/kernel", (64, 128), ()),
  ("decoder/logits_dense/kernel", (64, 512), ()),
  # gpt3: fused query, key and value, and one wi
  ("decoder/layers/self_attention/qkv_proj/kernel", (64, 2, 3, 4, 16), STACKED),
  ("decoder/layers/mlp/wi/kernel", (64, 2, 128), STACKED),
  # mixtral: expert weights have no kernel level
  ("decoder/layers/MoeBlock_0/wi_0", (8, 32, 4096, 14336), (1,)),
  ("decoder/layers/MoeBlock_0/wi_1", (8, 32, 4096, 14336), (1,)),
  ("decoder/layers/MoeBlock_0/wo", (8, 32, 14336, 4096), (1,)),
  # deepseek
  ("decoder/moe_layers/self_attention/wq_a/kernel", (64, 2, 24), STACKED),
  ("decoder/moe_layers/self_attention/wkv_b/kernel", (24, 2, 4, 32), STACKED),
  ("decoder/moe_layers/DeepSeekMoeBlock_0/shared_experts/wi_0/kernel", (64, 2, 128), STACKED),
  ("decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/wi_0", (8, 2, 64, 128), STACKED),
  # qwen3-next
  ("decoder/layers/layer_0/attention/in_proj_qkvz/kernel", (64, 2, 96), STACKED),
  ("decoder/layers/layer_0/mlp/shared_expert/wi_0/kernel", (64, 2, 128), STACKED),
]

OTHER = [
  ("token_embedder/embedding", (512, 64), ()),
  ("decoder/position_embedder/embedding", (2048, 64), ()),
  ("decoder/decoder_norm/scale", (64,), ()),
  ("decoder/layers/pre_self_attention_layer_norm/scale", (64, 2), STACKED),
  ("decoder/layers/self_attention/query_norm/scale", (16, 2), STACKED),
  ("decoder/layers/self_attention/query/bias", (4, 2, 16), STACKED),
  ("decoder/layers/mlp/wi_0/bias", (128, 2), STACKED),
  ("decoder/logits_dense/bias", (512,), ()),
  ("decoder/layers/MoeBlock_0/gate/kernel", (64, 2, 8), STACKED),
  ("decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/gate/kernel", (64, 2, 8), STACKED),
  ("decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/gate/bias", (8, 2), STACKED),
  ("decoder/layers/layers_0/GptOssMlp/wi_0_bias", (8, 2, 128), STACKED),
  ("decoder/layers/layers_0/GptOssMlp/wo_bias", (8, 2, 64), STACKED),
  ("decoder/layers/layers_0/GptOssAttention/sinks", (8, 2), STACKED),
  ("decoder/layers/layer_0/attention/conv1d/kernel", (4, 2, 1, 96), STACKED),
  ("decoder/layers/layer_0/attention/A_log", (8, 2), STACKED),
  ("decoder/layers/layer_0/mlp/shared_expert_gate/kernel", (64, 2, 1), STACKED),
  ("decoder/layers/self_attention/kernel", (64, 2), STACKED),  # one vector a layer
  ("decoder/layers/mlp/wo", (64,), ()),
]


def parameters(rows) -> list[Parameter]:
  return [Parameter(*row) for row in rows]


def selected(trainable=(), **keys) -> set[str]:
  return {p.path for p in select_prunable(parameters(LINEAR + OTHER), SparsityKeys(sparsity=0.5, **keys), trainable)}


EVERY_LINEAR = {path for path, *_ in LINEAR}


@pytest.mark.parametrize("row", LINEAR, ids=lambda row: row[0])
def test_linear_layers_are_prunable(row):
  assert is_linear_kernel(Parameter(*row))


@pytest.mark.parametrize("row", OTHER, ids=lambda row: row[0])
def test_embeddings_norms_biases_gates_and_convolutions_are_not(row):
  assert not is_linear_kernel(Parameter(*row))


# --- narrowing the choice ---------------------------------------------------------------------------------------------


def test_by_default_every_linear_layer_is_pruned_in_the_order_of_the_model():
  chosen = select_prunable(parameters(OTHER + LINEAR), SparsityKeys(sparsity=0.5))
  assert chosen == tuple(parameters(LINEAR))


def test_include_patterns_prune_only_what_one_of_them_matches():
  assert selected(prune_include=["logits_dense", "shared_experts?/wi_0"]) == {
    "decoder/logits_dense/kernel",
    "decoder/moe_layers/DeepSeekMoeBlock_0/shared_experts/wi_0/kernel",
    "decoder/layers/layer_0/mlp/shared_expert/wi_0/kernel",
  }


def test_exclude_patterns_leave_dense_what_one_of_them_matches():
  left = EVERY_LINEAR - selected(prune_exclude=["logits_dense", "^decoder/layers_0/"])
  assert left == {"decoder/logits_dense/kernel", "decoder/layers_0/mlp/wi_0/kernel"}


def test_exclude_wins_over_include():
  assert selected(prune_include=["layers/mlp/"], prune_exclude=["wi_"]) == {
    "decoder/layers/mlp/wo/kernel",
    "decoder/layers/mlp/wi/kernel",
  }


def test_patterns_never_add_what_is_no_linear_layer():
  assert selected(prune_include=["MoeBlock_0"]) <= EVERY_LINEAR


def test_the_forks_keyword_is_a_plain_substring():
  assert EVERY_LINEAR - selected(do_not_prune_kw="logits_dense") == {"decoder/logits_dense/kernel"}


@pytest.mark.parametrize("keyword", ["token_embedder", "norm"])
def test_the_forks_keyword_may_name_what_is_dense_anyway(keyword):
  assert selected(do_not_prune_kw=keyword) == EVERY_LINEAR


def test_parameters_that_maxtext_freezes_are_not_pruned():
  assert selected(trainable=[".*logits_dense.*", "wq_a"]) == {
    "decoder/logits_dense/kernel",
    "decoder/moe_layers/self_attention/wq_a/kernel",
  }


@pytest.mark.parametrize(
  "keys, opening",
  [
    ({"prune_include": ["mlp", "wi_9"]}, "prune_include='wi_9': "),
    ({"prune_exclude": ["token_embedder"]}, "prune_exclude='token_embedder': "),
    ({"prune_exclude": ["^logits_dense"]}, "prune_exclude='^logits_dense': "),
    ({"do_not_prune_kw": "lm_head"}, "do_not_prune_kw='lm_head': "),
    ({"prune_exclude": ["."]}, "sparsity=0.5: "),
    ({"prune_include": ["logits_dense"], "do_not_prune_kw": "logits"}, "sparsity=0.5: "),
    ({"trainable": ["token_embedder"]}, "sparsity=0.5: "),
  ],
)
def test_a_pattern_that_matches_nothing_or_leaves_nothing_is_refused_in_one_line(keys, opening):
  with pytest.raises(ConfigError) as caught:
    selected(**keys)
  assert str(caught.value).startswith(opening)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keys", [{}, {"prune_include": ["mlp"]}, {"prune_exclude": ["mlp"]}, {"do_not_prune_kw": "mlp"}])
def test_a_model_without_linear_layers_is_refused(keys):
  with pytest.raises(ConfigError, match=r"^sparsity=0.5: no parameter left to prune"):
    select_prunable(parameters(OTHER), SparsityKeys(sparsity=0.5, **keys))


def test_a_dense_run_has_the_prunable_weights_of_its_sparse_siblings():
  groups = [{"match": "mlp", "sparsity": 0.0}, {"match": "logits_dense"}]
  for keys in ({}, {"prune_groups": groups}, {"prune_exclude": ["mlp"]}):
    dense, sparse = (select_prunable(parameters(LINEAR + OTHER), SparsityKeys(sparsity=s, **keys)) for s in (0.0, 0.5))
    assert dense == sparse and dense


# --- matrices ---------------------------------------------------------------------------------------------------------


def test_a_single_matrix_has_the_name_of_its_parameter():
  head = Parameter("decoder/logits_dense/kernel", (64, 512))
  assert list(head.matrix_names()) == ["decoder/logits_dense/kernel"]
  assert (head.size, head.stack_shape, head.matrix_size) == (64 * 512, (), 64 * 512)


def test_stacked_layers_unfold_into_one_matrix_each():
  wi = Parameter("decoder/layers/mlp/wi_0/kernel", (64, 3, 128), (1,))
  assert list(wi.matrix_names()) == [f"decoder/layers/mlp/wi_0/kernel[{layer}]" for layer in range(3)]
  assert (wi.size, wi.stack_shape, wi.matrix_size) == (64 * 3 * 128, (3,), 64 * 128)


def test_two_layer_axes_unfold_in_row_major_order():
  staged = Parameter("w/kernel", (2, 64, 3, 128), (0, 2))
  assert list(staged.matrix_names()) == [f"w/kernel[{stage},{layer}]" for stage in range(2) for layer in range(3)]
  assert staged.matrix_size == 64 * 128


# --- reading a model --------------------------------------------------------------------------------------------------


def test_a_plain_tree_is_read_with_paths_and_shapes():
  tree = {"decoder": {"mlp": {"kernel": jnp.zeros((3, 4))}, "blocks": [jnp.zeros(2), jnp.zeros((1, 2))]}}
  assert parameters_of(tree) == (
    Parameter("decoder/blocks/0", (2,)),
    Parameter("decoder/blocks/1", (1, 2)),
    Parameter("decoder/mlp/kernel", (3, 4)),
  )


def test_the_params_collection_of_linen_is_not_part_of_a_path():
  assert parameters_of({"params": {"params_of_mlp": {"kernel": jnp.zeros(3)}}}) == (
    Parameter("params_of_mlp/kernel", (3,)),
  )


def test_shapes_are_enough():
  tree = {"mlp": {"kernel": jax.ShapeDtypeStruct((10**6, 10**6), jnp.bfloat16)}}
  assert parameters_of(tree)[0].size == 10**12


def test_logical_axis_names_of_linen_mark_the_layer_axes():
  boxed = nn.LogicallyPartitioned(jnp.zeros((64, 2, 128)), names=("embed", "layers", "mlp"))
  (parameter,) = parameters_of({"params": {"mlp": {"kernel": boxed}}})
  assert parameter == Parameter("mlp/kernel", (64, 2, 128), (1,))


class Block(nnx.Module):
  """A scanned linear layer, annotated as MaxText annotates it, and a norm."""

  def __init__(self, names=None):
    self.kernel = nnx.Param(jnp.ones((64, 2, 128)))
    self.kernel.set_metadata(out_sharding=names)
    self.scale = nnx.Param(jnp.ones((64,)))


class Model(nnx.Module):
  def __init__(self, names=None):
    self.decoder = Block(names)
    self.logits_dense = nnx.Linear(4, 8, rngs=nnx.Rngs(0))


def test_an_nnx_model_is_read_with_its_layer_axes():
  state = nnx.state(Model(("embed", "layers", "mlp")), nnx.Param)
  assert set(parameters_of(state)) == {
    Parameter("decoder/kernel", (64, 2, 128), (1,)),
    Parameter("decoder/scale", (64,)),
    Parameter("logits_dense/kernel", (4, 8)),
    Parameter("logits_dense/bias", (8,)),
  }


def test_an_abstract_nnx_model_and_its_pure_arrays_give_the_same_paths():
  abstract = nnx.state(nnx.eval_shape(Model), nnx.Param)
  pure = nnx.to_pure_dict(nnx.state(Model(), nnx.Param))
  assert parameters_of(abstract) == parameters_of(pure)
  assert {p.path for p in parameters_of(pure) if is_linear_kernel(p)} == {"decoder/kernel", "logits_dense/kernel"}


@pytest.mark.parametrize("name", ["layers", "dense_layers", "layers_per_stage", "stage", "circular_repeats"])
def test_every_way_in_which_maxtext_stacks_layers_is_known(name):
  boxed = nn.LogicallyPartitioned(jnp.zeros((2, 3, 4)), names=(name, "embed", "mlp"))
  assert parameters_of({"kernel": boxed})[0].stack_axes == (0,)


@pytest.mark.parametrize("name", ["embed", "mlp", "exp", "heads", "kv", None, ("fsdp", "tensor")])
def test_other_axes_are_part_of_the_matrix(name):
  boxed = nn.LogicallyPartitioned(jnp.zeros((2, 3)), names=(name, "embed"))
  assert parameters_of({"kernel": boxed})[0].stack_axes == ()
