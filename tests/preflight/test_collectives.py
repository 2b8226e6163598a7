"""Collectives in the forms that compilers write them in."""

import jax
import jax.numpy as jnp
import pytest

from maxtext_sparse.preflight.collectives import added, Collective, collective_of
from maxtext_sparse.preflight.hlo import parse

PROGRAM = """
%scatter (g: bf16[8,128]) -> bf16[2,128] {
  %g = bf16[8,128]{1,0} parameter(0)
  %sum = bf16[8,128]{1,0} all-reduce(%g), replica_groups={{0,1,2,3}}, to_apply=%add
  %n = s32[] constant(0)
  ROOT %d = bf16[2,128]{1,0} dynamic-slice(%sum, %n, %n), dynamic_slice_sizes={2,128}
}

%start (w: bf16[2,128]) -> (bf16[2,128], bf16[8,128], u32[]) {
  %w = bf16[2,128]{1,0} parameter(0)
  %ag = bf16[8,128]{1,0} all-gather(%w), channel_id=1, replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, dimensions={0}
  ROOT %s = (bf16[2,128]{1,0}, bf16[8,128]{1,0}, u32[]{:S(2)}) custom-call(%ag), custom_call_target="AsyncCollectiveStart"
}

%middle (w: bf16[2,128], h: u32[]) -> bf16[8,128] {
  %w = bf16[2,128]{1,0} parameter(0)
  %h = u32[]{:S(2)} parameter(1)
  ROOT %ag = bf16[8,128]{1,0} all-gather(%w), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
}

ENTRY %main (w: bf16[2,128], g: bf16[8,128]) -> s32[] {
  %w = bf16[2,128]{1,0} parameter(0)
  %g = bf16[8,128]{1,0} parameter(1)
  %h = u32[]{:S(2)} constant(0)
  %pair = (bf16[2,128]{1,0}, bf16[8,128]{1,0}) all-gather-start(%w), replica_groups=[2,4]<=[8], dimensions={0}
  %done = bf16[8,128]{1,0} all-gather-done(%pair)
  %rs = bf16[2,128]{1,0} fusion(%g), kind=kCustom, calls=%scatter
  %begin = (bf16[2,128]{1,0}, bf16[8,128]{1,0}, u32[]{:S(2)}) fusion(%w), kind=kCustom, calls=%start
  %beside = bf16[8,128]{1,0} fusion(%w, %h), kind=kOutput, calls=%middle
  %n = s32[] constant(1)
  ROOT %ar = s32[] all-reduce(%n), replica_groups={}, to_apply=%add, metadata={op_name="jit(step)/reduce_sum"}
}
"""
SHARD, WHOLE = 2 * 128 * 2, 8 * 128 * 2


@pytest.mark.parametrize(
  ("name", "kind", "num_bytes", "group_size"),
  [
    ("pair", "all-gather", WHOLE, 4),
    ("rs", "reduce-scatter", WHOLE, 4),
    ("begin", "all-gather", WHOLE, 4),
    ("ar", "all-reduce", 4, None),
  ],
)
def test_each_form_is_read_with_its_kind_bytes_and_group(name, kind, num_bytes, group_size):
  program = parse(PROGRAM)
  found = collective_of(program, program.entry, program.entry.instructions[name])
  assert (found.kind, found.num_bytes, found.group_size) == (kind, num_bytes, group_size)


@pytest.mark.parametrize("name", ["done", "beside", "w"])
def test_the_end_and_the_parts_of_a_collective_are_not_counted_again(name):
  program = parse(PROGRAM)
  assert collective_of(program, program.entry, program.entry.instructions[name]) is None


@pytest.mark.parametrize(
  ("kind", "sent"), [("all-gather", 750), ("reduce-scatter", 750), ("all-reduce", 1500), ("collective-permute", 1000)]
)
def test_what_a_device_sends_follows_from_the_ring(kind, sent):
  assert Collective(kind, "", 1000, "", group_size=4).sent_bytes(16) == sent


def test_a_collective_without_groups_is_one_of_all_devices():
  assert Collective("all-gather", "", 1600, "").sent_bytes(16) == 1500


def test_what_a_real_program_gathers_is_seen(mesh):
  weights = jax.device_put(jnp.ones((64, 32)), jax.NamedSharding(mesh, jax.P(("fsdp", "tensor"), None)))
  gather = jax.jit(lambda w: w * 2, out_shardings=jax.NamedSharding(mesh, jax.P()))
  program = parse(gather.lower(weights).compile().as_text())
  found = [collective_of(program, program.entry, i) for i in program.entry.instructions.values()]
  assert [(c.kind, c.num_bytes) for c in found if c] == [("all-gather", 64 * 32 * 4)]


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
