"""The LLaMA-2 family: MaxText's names and layouts on one side, Hugging Face's `LlamaForCausalLM` on the other.

One table serves both directions. MaxText's kernels are [inputs..., outputs...], Hugging Face's weights [outputs, inputs];
reshaping and transposing keeps every value, zeros included. Three things are not a matter of layout:

- MaxText divides query kernels by sqrt(head_dim) when it initialises them and leaves the division out of the attention;
  Hugging Face divides in the attention. So query weights are multiplied by sqrt(head_dim) on export.
- MaxText's default rotary embedding rotates the two halves of a head, as Hugging Face's. Its `llama3.1` one rotates
  neighbours, so the rows of query and key weights are put into the other order.
- A tied head of MaxText rounds the embedding to bfloat16 before the product, whatever the other dtypes are, and
  `normalize_embedding_logits` divides the logits by sqrt(emb_dim). The export folds the division into the final norm, and
  writes the rounded embedding as a head of its own unless the embedding is written in bfloat16 anyway.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
import re
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError

_LAYER_TABLE = {
  "self_attention/query/kernel": "self_attn.q_proj.weight",
  "self_attention/key/kernel": "self_attn.k_proj.weight",
  "self_attention/value/kernel": "self_attn.v_proj.weight",
  "self_attention/out/kernel": "self_attn.o_proj.weight",
  "mlp/wi_0/kernel": "mlp.gate_proj.weight",
  "mlp/wi_1/kernel": "mlp.up_proj.weight",
  "mlp/wo/kernel": "mlp.down_proj.weight",
  "pre_self_attention_layer_norm/scale": "input_layernorm.weight",
  "post_self_attention_layer_norm/scale": "post_attention_layernorm.weight",
}
_OUTER_TABLE = {
  "token_embedder/embedding": "model.embed_tokens.weight",
  "decoder/decoder_norm/scale": "model.norm.weight",
  "decoder/logits_dense/kernel": "lm_head.weight",
}
HEAD = "lm_head.weight"
EMBEDDING, _FINAL_NORM = "token_embedder/embedding", "decoder/decoder_norm/scale"
_LAYER_PATH = re.compile(r"decoder/layers(?:_(\d+))?/(.+)$")
# Axis along which MaxText stacks scanned layers.
_SCAN_AXIS = 1
# Keys that change the function a LLaMA-2 model computes: key -> the values with which it is one.
DECODER_BLOCK = "llama2"
_REQUIRED: Mapping[str, tuple[Any, ...]] = {
  "decoder_block": (DECODER_BLOCK,),
  "mlp_activations": (["silu", "linear"],),
  "rope_type": ("default", "llama3.1"),
  "attention_type": ("global",),
  "fused_qkv": (False,),
  "fused_mlp": (False,),
  "attention_bias": (False,),
  "use_qk_norm": (False,),
  "num_experts": (1,),
  "rope_min_timescale": (1,),
  "attn_logits_soft_cap": (None, 0, 0.0),
  "final_logits_soft_cap": (None, 0, 0.0),
  "param_scan_axis": (_SCAN_AXIS,),
}


@dataclasses.dataclass(frozen=True)
class LlamaShape:
  """The numbers that make one model of the family.

  Attributes:
    num_layers, emb_dim, mlp_dim, num_heads, num_kv_heads, head_dim, vocab_size: sizes.
    max_length: longest sequence of the training.
    norm_epsilon: added to the mean square in RMSNorm.
    rope_theta: base of the rotary embedding.
    is_rope_interleaved: whether MaxText rotates neighbours instead of halves (`rope_type: llama3.1`).
    is_rope_scaled: whether frequencies are scaled as in LLaMA 3.1.
    rope_factor: linear scaling of the positions, 1 for none.
    is_tied: whether the embedding is the head too.
    is_head_normalized: whether MaxText divides tied logits by sqrt(emb_dim).
  """

  num_layers: int
  emb_dim: int
  mlp_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  vocab_size: int
  max_length: int = 2048
  norm_epsilon: float = 1e-5
  rope_theta: float = 10_000.0
  is_rope_interleaved: bool = False
  is_rope_scaled: bool = False
  rope_factor: float = 1.0
  is_tied: bool = False
  is_head_normalized: bool = True

  @classmethod
  def from_config(cls, flat: Mapping[str, Any]) -> "LlamaShape":
    """Reads a complete MaxText config.

    Raises:
      ConfigError: a key makes the model something else than a LLaMA-2 one.
    """
    refuse_other_models(flat)
    is_interleaved = flat["rope_type"].startswith("llama3.1") or str(flat["model_name"]).startswith("llama3.1")
    return cls(
      flat["num_decoder_layers"],
      flat["emb_dim"],
      flat["mlp_dim"],
      flat["num_query_heads"],
      flat["num_kv_heads"],
      flat["head_dim"],
      flat["vocab_size"],
      flat["max_target_length"],
      flat["normalization_layer_epsilon"],
      float(flat["rope_max_timescale"]),
      is_interleaved,
      is_interleaved and flat["rope_use_scale"],
      float(flat.get("rope_linear_scaling_factor") or 1.0),
      flat["logits_via_embedding"],
      flat["normalize_embedding_logits"],
    )

  @classmethod
  def from_folder(cls, config: Mapping[str, Any]) -> "LlamaShape":
    """Reads a Hugging Face config.json.

    Raises:
      ConfigError: it is not a LLaMA config, or one that MaxText's LLaMA-2 block cannot compute.
    """
    if config.get("model_type") != "llama":
      raise ConfigError(f"model_type={config.get('model_type')!r}: only folders of the llama family can be imported")
    for key in ("attention_bias", "mlp_bias"):
      if config.get(key):
        raise ConfigError(f"{key}=true: MaxText's LLaMA-2 block has no biases")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
      raise ConfigError(f"rope_parameters={rope}: only the default rotary embedding can be imported")
    heads, emb_dim = config["num_attention_heads"], config["hidden_size"]
    return cls(
      config["num_hidden_layers"],
      emb_dim,
      config["intermediate_size"],
      heads,
      config.get("num_key_value_heads") or heads,
      config.get("head_dim") or emb_dim // heads,
      config["vocab_size"],
      config.get("max_position_embeddings", 2048),
      config.get("rms_norm_eps", 1e-6),
      float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
      is_tied=bool(config.get("tie_word_embeddings", False)),
      is_head_normalized=False,
    )

  def to_folder_config(self, dtype: str, is_tied: bool) -> dict[str, Any]:
    """config.json of the export; `dtype` is torch's name of it, `is_tied` whether the folder has no head of its own."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
    if self.is_rope_scaled:
      # The constants that MaxText's rotary embedding has built in.
      rope |= {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
      rope["original_max_position_embeddings"] = 8192
    elif self.rope_factor != 1.0:
      rope |= {"rope_type": "linear", "factor": self.rope_factor}
    return {
      "architectures": ["LlamaForCausalLM"],
      "model_type": "llama",
      "attention_bias": False,
      "attention_dropout": 0.0,
      "dtype": dtype,
      "head_dim": self.head_dim,
      "hidden_act": "silu",
      "hidden_size": self.emb_dim,
      "initializer_range": 0.02,
      "intermediate_size": self.mlp_dim,
      "max_position_embeddings": self.max_length,
      "mlp_bias": False,
      "num_attention_heads": self.num_heads,
      "num_hidden_layers": self.num_layers,
      "num_key_value_heads": self.num_kv_heads,
      "rms_norm_eps": self.norm_epsilon,
      "rope_parameters": rope,
      # transformers before version 5 reads these two.
      "rope_scaling": None if rope["rope_type"] == "default" else {k: v for k, v in rope.items() if k != "rope_theta"},
      "rope_theta": self.rope_theta,
      "tie_word_embeddings": is_tied,
      "torch_dtype": dtype,
      "use_cache": True,
      "vocab_size": self.vocab_size,
    }


def refuse_other_models(flat: Mapping[str, Any]) -> None:
  """Raises ConfigError naming the first key that makes a config something else than a LLaMA-2 model."""
  for key, allowed in _REQUIRED.items():
    value = flat.get(key, allowed[0])
    value = list(value) if isinstance(value, tuple) else getattr(value, "value", value)
    if value not in allowed:
      raise ConfigError(f"{key}={value}: not of the LLaMA-2 family, must be {' or '.join(map(str, allowed))}")


def folder_name(path: str, layer: int | None = None) -> str | None:
  """The Hugging Face name of a MaxText parameter, None if the family has no such parameter.

  Args:
    path: such as `decoder/layers/mlp/wi_0/kernel`, or `decoder/layers_3/mlp/wi_0/kernel`.
    layer: the layer of a stacked array.
  """
  if path in _OUTER_TABLE:
    return _OUTER_TABLE[path]
  match = _LAYER_PATH.match(path)
  if not match or match[2] not in _LAYER_TABLE:
    return None
  return f"model.layers.{layer if match[1] is None else int(match[1])}.{_LAYER_TABLE[match[2]]}"


def folder_shapes(shape: LlamaShape, has_head: bool) -> dict[str, tuple[int, ...]]:
  """Every tensor of the export, with its shape."""
  query, key = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
  sizes = {
    "q_proj": (query, shape.emb_dim),
    "k_proj": (key, shape.emb_dim),
    "v_proj": (key, shape.emb_dim),
    "o_proj": (shape.emb_dim, query),
    "gate_proj": (shape.mlp_dim, shape.emb_dim),
    "up_proj": (shape.mlp_dim, shape.emb_dim),
    "down_proj": (shape.emb_dim, shape.mlp_dim),
  }
  shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab_size, shape.emb_dim)}
  for layer in range(shape.num_layers):
    for suffix in _LAYER_TABLE.values():
      module = suffix.split(".")[-2]
      shapes[f"model.layers.{layer}.{suffix}"] = sizes.get(module, (shape.emb_dim,))
  shapes["model.norm.weight"] = (shape.emb_dim,)
  return shapes | ({HEAD: (shape.vocab_size, shape.emb_dim)} if has_head else {})


def maxtext_shapes(shape: LlamaShape, is_scanned: bool) -> dict[str, tuple[int, ...]]:
  """Every parameter of the MaxText model, with its shape."""
  layer_shapes = {
    "query": (shape.emb_dim, shape.num_heads, shape.head_dim),
    "key": (shape.emb_dim, shape.num_kv_heads, shape.head_dim),
    "value": (shape.emb_dim, shape.num_kv_heads, shape.head_dim),
    "out": (shape.num_heads, shape.head_dim, shape.emb_dim),
    "wi_0": (shape.emb_dim, shape.mlp_dim),
    "wi_1": (shape.emb_dim, shape.mlp_dim),
    "wo": (shape.mlp_dim, shape.emb_dim),
  }
  shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (shape.vocab_size, shape.emb_dim), _FINAL_NORM: (shape.emb_dim,)}
  if not shape.is_tied:
    shapes["decoder/logits_dense/kernel"] = (shape.emb_dim, shape.vocab_size)
  for suffix in _LAYER_TABLE:
    single = layer_shapes.get(suffix.split("/")[-2], (shape.emb_dim,))
    if is_scanned:
      shapes[f"decoder/layers/{suffix}"] = (*single[:_SCAN_AXIS], shape.num_layers, *single[_SCAN_AXIS:])
    else:
      shapes |= {f"decoder/layers_{layer}/{suffix}": single for layer in range(shape.num_layers)}
  return shapes


def keys_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """The MaxText keys that a checkpoint's shapes tell; those that shapes do not tell are left out.

  Raises:
    ConfigError: the parameters are not those of a LLaMA-2 model.
  """
  unknown = [path for path in shapes if folder_name(path, 0) is None]
  layers = {match[1] for match in map(_LAYER_PATH.match, shapes) if match}
  is_scanned = layers == {None}
  prefix = "decoder/layers" if is_scanned else "decoder/layers_0"
  needed = [f"{prefix}/{suffix}" for suffix in _LAYER_TABLE] + [EMBEDDING, _FINAL_NORM]
  missing = [path for path in needed if path not in shapes]
  if unknown or missing:
    what = f"{unknown[0]} is none of its parameters" if unknown else f"{missing[0]} is missing"
    raise ConfigError(
      f"CONFIG: this checkpoint is not a LLaMA-2 model ({what}), give the config that it was trained with"
    )
  query, key = shapes[f"{prefix}/self_attention/query/kernel"], shapes[f"{prefix}/self_attention/key/kernel"]
  return {
    "base_num_decoder_layers": query[_SCAN_AXIS] if is_scanned else len(layers),
    "base_emb_dim": shapes[EMBEDDING][1],
    "base_mlp_dim": shapes[f"{prefix}/mlp/wi_0/kernel"][-1],
    "base_num_query_heads": query[-2],
    "base_num_kv_heads": key[-2],
    "head_dim": query[-1],
    "vocab_size": shapes[EMBEDDING][0],
    "logits_via_embedding": "decoder/logits_dense/kernel" not in shapes,
    "scan_layers": is_scanned,
  }


def to_folder(path: str, array: NDArray[Any], shape: LlamaShape, has_head: bool) -> Iterator[tuple[str, NDArray[Any]]]:
  """The Hugging Face tensors of one MaxText array, in the array's dtype or in float32 where values change.

  Args:
    path: the parameter's.
    array: its value.
    shape: of the model.
    has_head: whether the export has a head of its own. A tied model then gets one from its embedding.
  """
  match = _LAYER_PATH.match(path)
  is_stacked = match is not None and match[1] is None
  for layer in range(shape.num_layers) if is_stacked else (None,):
    name = folder_name(path, layer)
    assert name is not None
    part = array[(slice(None),) * _SCAN_AXIS + (layer,)] if is_stacked else array
    yield name, _to_weight(path, part, shape)
  if path == EMBEDDING and shape.is_tied and has_head:
    yield HEAD, array.astype(ml_dtypes.bfloat16)


def _to_weight(path: str, part: NDArray[Any], shape: LlamaShape) -> NDArray[Any]:
  if path == _FINAL_NORM and shape.is_tied and shape.is_head_normalized:
    return part.astype(np.float32) / np.float32(math.sqrt(shape.emb_dim))
  if not path.endswith("/kernel"):
    return part
  module = path.split("/")[-2]
  if module == "query":
    part = part.astype(np.float32) * np.float32(math.sqrt(shape.head_dim))
  if module in ("query", "key") and shape.is_rope_interleaved:
    part = np.concatenate((part[..., ::2], part[..., 1::2]), axis=-1)
  num_inputs = math.prod(part.shape[:-1]) if module == "out" else part.shape[0]
  return part.reshape(num_inputs, -1).T


def to_maxtext(shape: LlamaShape, read: Callable[[str], NDArray[Any]], dtype: np.dtype[Any]) -> dict[str, NDArray[Any]]:
  """The scanned MaxText parameters of a Hugging Face folder, by path.

  Args:
    shape: of the model.
    read: returns a tensor by its Hugging Face name.
    dtype: of the result.
  """
  tree = {
    path: _to_kernel(path, read(name), shape).astype(dtype, copy=False)
    for path, name in _OUTER_TABLE.items()
    if not (shape.is_tied and name == HEAD)
  }
  for suffix, name in _LAYER_TABLE.items():
    path = f"decoder/layers/{suffix}"
    layers = (_to_kernel(path, read(f"model.layers.{i}.{name}"), shape).astype(dtype) for i in range(shape.num_layers))
    first = next(layers)
    # Filled layer by layer, so that no second copy of the stack exists.
    stacked = np.empty((*first.shape[:_SCAN_AXIS], shape.num_layers, *first.shape[_SCAN_AXIS:]), dtype)
    for layer, kernel in enumerate((first, *layers)):
      stacked[(slice(None),) * _SCAN_AXIS + (layer,)] = kernel
    tree[path] = stacked
  return tree


def _to_kernel(path: str, weight: NDArray[Any], shape: LlamaShape) -> NDArray[Any]:
  """Undoes `_to_weight`."""
  if not path.endswith("/kernel"):
    return weight
  module = path.split("/")[-2]
  heads = {"query": shape.num_heads, "key": shape.num_kv_heads, "value": shape.num_kv_heads}
  kernel = weight.T
  if module in heads:
    kernel = kernel.reshape(shape.emb_dim, heads[module], shape.head_dim)
  elif module == "out":
    kernel = kernel.reshape(shape.num_heads, shape.head_dim, shape.emb_dim)
  if module == "query":
    kernel = kernel.astype(np.float32) / np.float32(math.sqrt(shape.head_dim))
  return kernel
