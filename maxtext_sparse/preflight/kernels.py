"""FLOPs of kernels that are written by hand, from their names and the shapes of their operands.

The text of a program shows such a kernel as a call without operations. Where its author states a cost, the compiler
copies it into the text. MaxText's kernels on TPU are counted here:

| kernel | products of [queries, keys] for each head | of which |
|---|---|---|
| splash attention, forward | 2 | scores; values |
| ... gradient of the queries | 3 | scores again; gradient of the scores; gradient of the queries |
| ... gradient of keys and values | 4 | scores again; gradients of values, scores, keys |
| ... all gradients in one | 5 | |

Splash attention skips blocks that the causal mask hides. With 4 x 4 blocks it computes 10 of 16. Other masks, such as a
sliding window, hide more blocks than are counted.
"""

import re

from maxtext_sparse.preflight.hlo import Array, Computation, Instruction

_STATED = re.compile(r'"cost_estimate":\{[^}]*"flops":"?(\d+)')
_ATTENTION = re.compile(r"splash_\w+?_(fwd|dq|dkv)")
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


def kernel_flops(computation: Computation, call: Instruction) -> float:
  """FLOPs of a kernel; 0 for one that is not known."""
  stated = _STATED.search(call.attributes)
  if stated:
    return float(stated[1])
  if "tpu_custom_call" not in call.attributes:
    return 0.0
  operands = [array for operand in computation.operands(call) for array in operand.arrays]
  attention = _ATTENTION.search(call.op_name or call.name)
  return _attention(attention[1], operands, call) if attention else 0.0


def _attention(part: str, operands: list[Array], call: Instruction) -> float:
  """2 x queries x keys x head size for each head and product, of the blocks that the causal mask leaves."""
  queries, keys = [array for array in operands if len(array.shape) >= 3 and _is_float(array)][:2]
  blocks = next(array for array in operands if not _is_float(array) and len(array.shape) == 3)
  products = _PRODUCTS[part]
  # The kernel that makes all gradients returns one array of results more.
  if part == "dkv" and sum(array.shape[-2:] == queries.shape[-2:] and array.dtype == "bf16" for array in call.arrays) > 2:
    products = 5
  share = _causal_share(queries.shape[-2], keys.shape[-2], blocks.shape[-2], blocks.shape[-1])
  return 2.0 * products * queries.size * keys.shape[-2] * share


def _causal_share(num_queries: int, num_keys: int, rows: int, columns: int) -> float:
  """Share of the blocks with a key that is not after the last query of the block."""
  kept = sum(
    column * num_keys // columns < (row + 1) * num_queries // rows for row in range(rows) for column in range(columns)
  )
  return kept / (rows * columns)


def _is_float(array: Array) -> bool:
  return array.dtype.startswith(("bf", "f"))
