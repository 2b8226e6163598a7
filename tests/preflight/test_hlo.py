"""Collectives as they stand in the text of a compiled program."""

import jax
import jax.numpy as jnp
import pytest

from maxtext_sparse.preflight.hlo import added, Collective, collectives

PROGRAM = """
HloModule jit_step, is_scheduled=true

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %w = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %ag = (f32[8,128]{1,0}, f32[32,128]{1,0}) all-gather-start(%w), dimensions={0}, metadata={op_name="jit(step)/dot"}
  %done = f32[32,128]{1,0} all-gather-done(%ag)
  %rs = bf16[2,128]{1,0} reduce-scatter(bf16[8,128]{1,0} %grad), metadata={op_name="jit(step)/transpose"}
}
  %n = s32[]{:T(128)} reduce(%w)
  %m = pred[] compare(%n, %n)
  ROOT %ar = (s32[], /*index=1*/s32[]) all-reduce(%n, %n), channel_id=3, metadata={op_name="jit(step)/reduce_sum"}
"""


def test_every_collective_is_read_once_with_its_bytes_and_its_origin():
  assert collectives(PROGRAM) == [
    Collective("all-gather", "f32[8,128], f32[32,128]", 32 * 128 * 4, "jit(step)/dot"),
    Collective("reduce-scatter", "bf16[2,128]", 2 * 128 * 2, "jit(step)/transpose"),
    Collective("all-reduce", "s32[], s32[]", 8, "jit(step)/reduce_sum"),
  ]


def test_what_a_real_program_gathers_is_seen(mesh):
  weights = jax.device_put(jnp.ones((64, 32)), jax.NamedSharding(mesh, jax.P(("fsdp", "tensor"), None)))
  gather = jax.jit(lambda w: w * 2, out_shardings=jax.NamedSharding(mesh, jax.P()))
  found = collectives(gather.lower(weights).compile().as_text())
  assert [(c.kind, c.num_bytes) for c in found] == [("all-gather", 64 * 32 * 4)]


def make(kind, arrays):
  return Collective(kind, arrays, 4, "")


@pytest.mark.parametrize(
  ("dense", "sparse", "extra"),
  [
    ([], [], []),
    ([make("all-reduce", "f32[]")], [make("all-reduce", "f32[]")], []),
    ([make("all-reduce", "f32[]")], [make("all-reduce", "f32[]")] * 3, [make("all-reduce", "f32[]")] * 2),
    ([make("all-reduce", "f32[]")], [make("all-gather", "f32[]")], [make("all-gather", "f32[]")]),
    ([make("all-gather", "f32[8]")], [make("all-gather", "f32[9]")], [make("all-gather", "f32[9]")]),
  ],
)
def test_added_are_those_without_a_counterpart(dense, sparse, extra):
  assert added(dense, sparse) == extra
