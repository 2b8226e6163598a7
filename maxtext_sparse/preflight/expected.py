"""How many FLOPs a train step should take, from the config alone. The count of the compiled program is held against it.

*Model FLOPs* are those of MaxText's own formula, by which it reports its utilisation (MFU): 6 FLOPs for each weight and
token, and the products of attention, of which causality leaves half. A program computes more:

- Rematerialisation repeats the forward pass of each layer, but for the last product of its MLP, whose result no gradient
  needs. With experts it is repeated too, because the gradient of the router's weights needs what each expert returned.
- The attention kernel works on blocks, and computes those on the diagonal in full: with 4 x 4 blocks 10 of 16, not 8.
- Its backward pass computes the scores again, once for the queries and once for the keys and values: 7 products, not 4.
"""

from typing import Any

# Products of the attention kernel: forward, forward again when it is rematerialised, and backward. Model FLOPs have 6.
_ATTENTION_PRODUCTS = 2 + 2 + 7
_MODEL_PRODUCTS = 2 + 4


def model_flops(config: Any) -> float:
  """FLOPs of a step on one device by MaxText's formula."""
  total, _, _ = _maxtext_flops(config)
  return total


def tokens_per_device(config: Any) -> float:
  """Tokens of a step on one device, by MaxText's formula."""
  return float(config.per_device_batch_size * config.gradient_accumulation_steps * config.max_target_length)


def expected_flops(config: Any) -> float | None:
  """FLOPs that the program of a step should have on one device; None for a config that the count is not made for.

  It is made for decoders of equal layers, with attention over all that came before and `remat_policy: full`. Experts must
  compute every token that is sent to them, and no padding.
  """
  attention_type = getattr(config.attention_type, "value", config.attention_type)
  drops_tokens = config.num_experts > 1 and (not config.sparse_matmul or config.capacity_factor > 0)
  if config.remat_policy != "full" or attention_type != "global" or drops_tokens:
    return None
  _, weights, attention = _maxtext_flops(config)
  tokens = tokens_per_device(config)
  head = 2.0 * tokens * config.emb_dim * config.vocab_size
  last_products = 2.0 * tokens * config.mlp_dim * config.emb_dim * config.num_decoder_layers
  repeated = weights / 3 - head - (0.0 if config.num_experts > 1 else last_products)
  share = _block_share(int(config.max_target_length), int(config.sa_block_q)) / 0.5
  return float(weights + repeated + attention * _ATTENTION_PRODUCTS / _MODEL_PRODUCTS * share)


def _block_share(length: int, block: int) -> float:
  """Share of the blocks that a causal mask leaves: (n + 1) / 2n of n x n."""
  rows = max(1, length // block)
  return (rows + 1) / (2 * rows)


def _maxtext_flops(config: Any) -> tuple[float, float, float]:
  """All FLOPs of a step on one device, those of weights, and those of attention."""
  from maxtext.utils.maxtext_utils import calculate_tflops_training_per_device

  total, weights, attention = (float(part) * 1e12 for part in calculate_tflops_training_per_device(config, log=False))
  return total, weights, attention
