"""The text of compiled programs, read as computations and instructions."""

import jax
import jax.numpy as jnp

from maxtext_sparse.preflight.hlo import Array, arrays_of, parse

PROGRAM = """
HloModule jit_step, is_scheduled=true

%fused (p.1: bf16[8,128]) -> bf16[8,128] {
  %p.1 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %tanh = bf16[8,128]{1,0:T(8,128)(2,1)} tanh(%p.1), metadata={op_name="jit(step)/tanh" stack_frame_id=3}
}

ENTRY %main (w: bf16[8,128], n: s32[]) -> (bf16[8,128], s32[]) {
  %w = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %n = s32[]{:T(128)} parameter(1)
  %kernel = (f32[8,128]{1,0}, /*index=1*/s32[]{:S(2)}) custom-call(%w, %n), custom_call_target="x", attributes={a={
}}, metadata={op_name="kernels/splash"}
  %fusion = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%w), kind=kLoop, calls=%fused
  ROOT %out = (bf16[8,128]{1,0}, s32[]) tuple(%fusion, %n)
}
"""


def test_computations_and_instructions_are_read_by_name():
  program = parse(PROGRAM)
  assert list(program.computations) == ["fused", "main"]
  assert list(program.entry.instructions) == ["w", "n", "kernel", "fusion", "out"]
  assert program.entry.root.name == "out" and program.entry.root.operands == ("fusion", "n")
  fusion = program.entry.instructions["fusion"]
  assert [c.name for c in program.called(fusion)] == ["fused"]
  assert program.called(fusion)[0].root.op_name == "jit(step)/tanh"


def test_attributes_that_go_on_in_the_next_line_belong_to_their_instruction():
  kernel = parse(PROGRAM).entry.instructions["kernel"]
  assert kernel.op_name == "kernels/splash"
  assert kernel.arrays == (Array("f32", (8, 128)), Array("s32", (), memory=2))


def test_a_type_tells_bytes_and_memory():
  weights, flags, packed = arrays_of("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[4], u4[3]{0})")
  assert (weights.num_bytes, weights.memory) == (12, 1)
  assert (flags.num_bytes, flags.memory) == (4, 0)
  assert packed.num_bytes == 1


def test_users_and_parameters_follow_the_order_of_the_text():
  entry = parse(PROGRAM).entry
  assert [p.name for p in entry.parameters] == ["w", "n"]
  assert [user.name for user in entry.users["w"]] == ["kernel", "fusion"]


def test_a_real_program_is_read_completely():
  step = jax.jit(lambda w, x: jax.lax.scan(lambda h, layer: (jnp.tanh(h @ layer), None), x, w)[0])
  text = step.lower(jnp.ones((3, 8, 8)), jnp.ones((4, 8))).compile().as_text()
  program = parse(text)
  loops = [i for c in program.computations.values() for i in c.instructions.values() if i.opcode == "while"]
  assert len(loops) == 1
  assert all(c.root for c in program.computations.values())
