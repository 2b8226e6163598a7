"""FLOPs of MaxText's kernels, by their names and the shapes of their operands."""

import pytest

from maxtext_sparse.preflight.hlo import parse
from maxtext_sparse.preflight.kernels import kernel_flops

HEADS = "bf16[2,8,2048,64]"
KERNEL = """
ENTRY %main () -> f32[] {{
  %blocks = s8[1,4,4] parameter(0)
  %q = {heads} parameter(1)
  %k = {heads} parameter(2)
  %v = {heads} parameter(3)
  ROOT %call = {result} custom-call(%blocks, %q, %k, %v), custom_call_target="{target}", metadata={{op_name="a/{name}/b"}}
}}
"""


def flops_of(name: str, result: str = HEADS, target: str = "tpu_custom_call") -> float:
  entry = parse(KERNEL.format(heads=HEADS, result=result, name=name, target=target)).entry
  return kernel_flops(entry, entry.root)


# 2 sequences of 8 heads, [2048, 64] x [64, 2048], of which causality leaves 10 of 16 blocks.
PRODUCT = 2 * 8 * 2 * 2048 * 2048 * 64 * 10 / 16


@pytest.mark.parametrize(
  ("name", "products"),
  [("splash_mha_fwd_residuals", 2), ("splash_mha_dq_segmented", 3), ("splash_mqa_dkv_segmented", 4)],
)
def test_the_parts_of_attention_take_two_three_and_four_products(name, products):
  assert flops_of(name) == products * PRODUCT


def test_one_kernel_for_all_gradients_takes_five():
  assert flops_of("splash_mha_dkv", f"({HEADS}, {HEADS}, {HEADS})") == 5 * PRODUCT


def test_a_kernel_that_is_not_known_counts_nothing():
  assert flops_of("another") == 0
  assert flops_of("splash_mha_fwd", target="ConcatBitcast") == 0
