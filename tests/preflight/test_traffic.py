"""Bytes of single instructions: what is read and written, in any memory and in HBM."""

import pytest

from maxtext_sparse.preflight.hlo import parse
from maxtext_sparse.preflight.traffic import bytes_of_scope, moved_bytes

PROGRAM = """
%slice_layer (s: f32[6,8,128], i: s32[]) -> f32[8,128] {
  %s = f32[6,8,128] parameter(0)
  %i = s32[] parameter(1)
  %d = f32[1,8,128] dynamic-slice(%s, %i), dynamic_slice_sizes={1,8,128}
  ROOT %b = f32[8,128] bitcast(%d)
}

%store_layer (s: f32[6,8,128], u: f32[1,8,128], i: s32[]) -> f32[6,8,128] {
  %s = f32[6,8,128] parameter(0)
  %u = f32[1,8,128] parameter(1)
  %i = s32[] parameter(2)
  ROOT %d = f32[6,8,128] dynamic-update-slice(%s, %u, %i)
}

%clip (w: f32[8,128], g: f32[8,128]) -> f32[] {
  %w = f32[8,128] parameter(0)
  %g = f32[8,128] parameter(1)
  %zero = f32[8,128] constant({...})
  %a = f32[8,128] abs(%w), metadata={op_name="step/gradient_mask/abs"}
  %m = pred[8,128] compare(%a, %zero), direction=EQ, metadata={op_name="step/gradient_mask/eq"}
  %g2 = f32[8,128] select(%m, %zero, %g), metadata={op_name="step/gradient_mask/select_n"}
  ROOT %r = f32[] reduce(%g2), to_apply=%add
}

ENTRY %main () -> f32[] {
  %stack = f32[6,8,128] parameter(0)
  %layer = f32[8,128] parameter(1)
  %cached = f32[8,128]{1,0:T(8,128)S(1)} parameter(2)
  %one = f32[1,8,128] parameter(3)
  %i = s32[] parameter(4)
  %add = f32[8,128] add(%layer, %layer)
  %mixed = f32[8,128]{1,0:T(8,128)S(1)} add(%layer, %cached)
  %read = f32[8,128] fusion(%stack, %i), kind=kLoop, calls=%slice_layer
  %write = f32[6,8,128] fusion(%stack, %one, %i), kind=kLoop, calls=%store_layer
  %masked = f32[] fusion(%layer, %add), kind=kInput, calls=%clip
  %part = ((f32[8,128]), f32[2,128]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%layer), slice={[0:2], [0:128]}
  %fetched = (f32[8,128]{1,0:S(1)}, f32[8,128], u32[]{:S(2)}) copy-start(%layer)
  %copied = f32[8,128]{0,1} copy(%layer)
  %name = f32[8,128] bitcast(%layer)
  %room = f32[8,128] custom-call(), custom_call_target="AllocateBuffer"
  ROOT %out = f32[] constant(0)
}
"""
LAYER, INDEX = 8 * 128 * 4, 4


@pytest.mark.parametrize(
  ("name", "accessed", "in_hbm"),
  [
    ("add", 3 * LAYER, 3 * LAYER),
    ("mixed", 3 * LAYER, LAYER),
    ("read", 2 * LAYER + INDEX, 2 * LAYER + INDEX),  # one layer of six, and its copy
    ("write", 2 * LAYER + INDEX, 2 * LAYER + INDEX),  # one layer of six, in place
    ("masked", 2 * LAYER + 4, 2 * LAYER + 4),
    ("part", 0, LAYER // 4),
    ("fetched", 0, LAYER),
    ("copied", 2 * LAYER, 2 * LAYER),
    ("name", 0, 0),
    ("room", 0, 0),
  ],
)
def test_an_instruction_moves_what_it_uses(name, accessed, in_hbm):
  program = parse(PROGRAM)
  instruction = program.entry.instructions[name]
  moved = lambda hbm_only: moved_bytes(program, program.entry, instruction, hbm_only=hbm_only)
  assert (moved(False), moved(True)) == (accessed, in_hbm)


def test_a_scope_costs_what_only_its_operations_read():
  program = parse(PROGRAM)
  of_mask = lambda name: bytes_of_scope(program, program.entry, program.entry.instructions[name], "gradient_mask")
  # The weights are read for the mask alone; the gradients would be read without it too.
  assert of_mask("masked") == LAYER
  assert of_mask("add") == 0
