"""FLOPs of products: against the numbers of multiplications and additions that they are made of."""

import jax
import jax.numpy as jnp
import pytest

from maxtext_sparse.preflight.flops import flops
from maxtext_sparse.preflight.hlo import parse


def flops_of(line: str, *operands: str) -> float:
  parameters = "\n".join(f"  %p{i} = {array} parameter({i})" for i, array in enumerate(operands))
  program = parse(f"ENTRY %main () -> f32[] {{\n{parameters}\n  ROOT %x = {line}\n}}")
  return flops(program.entry, program.entry.root)


def test_a_product_takes_a_multiplication_and_an_addition_for_each_term():
  line = "f32[8,32] dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
  assert flops_of(line, "f32[8,16]", "f32[16,32]") == 2 * 8 * 16 * 32


def test_batch_dimensions_of_a_product_multiply():
  dims = "lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}"
  assert flops_of(f"f32[5,8,32] dot(%p0, %p1), {dims}", "f32[5,8,16]", "f32[5,16,32]") == 5 * 2 * 8 * 16 * 32


def test_a_product_written_as_a_convolution_counts_the_same():
  assert flops_of("f32[8,32] convolution(%p0, %p1), dim_labels=bf_io->bf", "f32[8,16]", "f32[16,32]") == 2 * 8 * 16 * 32


def test_a_window_over_a_batch_dimension_counts_what_it_meets():
  """The TPU compiler's form of 8 products of [4, 16] with [16, 32]: one kernel element meets each input."""
  line = "f32[8,4,32] convolution(%p0, %p1), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf"
  assert flops_of(line, "f32[8,4,16]", "f32[8,16,32]") == 8 * 2 * 4 * 16 * 32


@pytest.mark.parametrize(("padding", "taps"), [("0_0", 3 * 8), ("1_1", 3 * 10 - 2)])
def test_positions_in_the_padding_cost_nothing(padding, taps):
  size = 8 if padding == "0_0" else 10
  line = f"f32[1,{size},1] convolution(%p0, %p1), window={{size=3 pad={padding}}}, dim_labels=b0f_0io->b0f"
  assert flops_of(line, "f32[1,10,1]", "f32[3,1,1]") == 2 * taps


def test_other_operations_are_left_out():
  assert flops_of("f32[8] add(%p0, %p1)", "f32[8]", "f32[8]") == 0


def test_a_convolution_of_jax_counts_as_xla_counts_it():
  convolve = jax.jit(lambda x, k: jax.lax.conv(x, k, window_strides=(2, 2), padding="SAME"))
  program = convolve.lower(jnp.ones((2, 3, 16, 16)), jnp.ones((5, 3, 3, 3))).compile()
  entry = parse(program.as_text()).entry
  found = sum(flops(entry, instruction) for instruction in entry.instructions.values())
  # XLA's CPU compiler may fold the padding into the window, so only the products that meet the input count.
  assert found == pytest.approx(program.cost_analysis()["flops"], rel=0.02)
