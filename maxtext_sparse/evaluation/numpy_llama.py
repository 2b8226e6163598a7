"""`LlamaForCausalLM` in numpy: enough to check logits and to evaluate small models on a machine without torch.

Follows the published architecture (Touvron et al., 2023): RMSNorm before each block, rotary embeddings that rotate the
two halves of a head, grouped queries, SwiGLU. Shapes in comments: B batch, T length, D hidden size, H query heads, E head
size, V vocabulary.
"""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.weights.folder import ModelFolder


class NumpyLlama:
  """A model of the llama family in float32."""

  def __init__(self, folder: ModelFolder):
    """Loads all weights, those of a bitmask folder too.

    Raises:
      ConfigError: the folder is of another family.
    """
    self.config = config = folder.config
    if config.get("model_type") != "llama":
      raise ConfigError(
        f"{folder.path}: model_type={config.get('model_type')!r} needs torch and transformers, install them"
      )
    self._weights = {name: folder.read(name).astype(np.float32) for name in folder.names()}
    self._num_heads: int = config["num_attention_heads"]
    self._num_kv_heads: int = config.get("num_key_value_heads") or self._num_heads
    self._head_dim: int = config.get("head_dim") or config["hidden_size"] // self._num_heads
    self._frequencies = _frequencies(config, self._head_dim)

  def logits(self, tokens: NDArray[Any]) -> Any:
    """Logits [B, T, V] of tokens [B, T]; position 0 is the first of each row."""
    weights = self._weights
    x = weights["model.embed_tokens.weight"][tokens]  # [B, T, D]
    for layer in range(self.config["num_hidden_layers"]):
      prefix = f"model.layers.{layer}"
      x = x + self._attention(prefix, self._norm(x, f"{prefix}.input_layernorm.weight"))
      x = x + self._mlp(prefix, self._norm(x, f"{prefix}.post_attention_layernorm.weight"))
    head = "model.embed_tokens.weight" if self.config.get("tie_word_embeddings") else "lm_head.weight"
    return self._norm(x, "model.norm.weight") @ weights[head].T

  def _norm(self, x: NDArray[Any], name: str) -> Any:
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + np.float32(self.config["rms_norm_eps"])) * self._weights[name]

  def _mlp(self, prefix: str, x: NDArray[Any]) -> Any:
    gate, up, down = (self._weights[f"{prefix}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    hidden = x @ gate.T
    return (hidden / (1 + np.exp(-hidden)) * (x @ up.T)) @ down.T

  def _attention(self, prefix: str, x: NDArray[Any]) -> Any:
    batch, length, _ = x.shape
    projected = {}
    for name, heads in (("q", self._num_heads), ("k", self._num_kv_heads), ("v", self._num_kv_heads)):
      weight = self._weights[f"{prefix}.self_attn.{name}_proj.weight"]
      projected[name] = (x @ weight.T).reshape(batch, length, heads, self._head_dim).transpose(0, 2, 1, 3)  # [B, H, T, E]
    query, key = self._rotate(projected["q"]), self._rotate(projected["k"])
    num_shared = self._num_heads // self._num_kv_heads
    key, value = (np.repeat(array, num_shared, axis=1) for array in (key, projected["v"]))
    scores = query @ key.transpose(0, 1, 3, 2) / np.float32(math.sqrt(self._head_dim))  # [B, H, T, T]
    scores = np.where(np.tril(np.ones((length, length), bool)), scores, np.float32(-np.inf))
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
    merged = mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1)
    return merged @ self._weights[f"{prefix}.self_attn.o_proj.weight"].T

  def _rotate(self, x: NDArray[Any]) -> Any:
    """Rotary embedding of [B, H, T, E]: component i and i + E / 2 are turned by position x frequency i."""
    angles = np.arange(x.shape[2])[:, None] * self._frequencies  # [T, E / 2]
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)


def _frequencies(config: Mapping[str, Any], head_dim: int) -> Any:
  """Angle per position of each pair of components, with the scaling that LLaMA 3.1 and linear scaling ask for."""
  rope = config.get("rope_parameters") or {**(config.get("rope_scaling") or {}), "rope_theta": config.get("rope_theta")}
  theta = rope.get("rope_theta") or 10_000.0
  frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim)
  kind = rope.get("rope_type", "default")
  if kind == "linear":
    return frequencies / rope["factor"]
  if kind == "llama3":
    # Long waves are slowed down by `factor`, short ones are left, those in between are interpolated.
    waves = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # turns within the original context
    share = np.clip((waves - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"]), 0, 1)
    return frequencies * (share + (1 - share) / rope["factor"])
  if kind != "default":
    raise ConfigError(f"rope_type={kind!r}: needs torch and transformers, install them")
  return frequencies
