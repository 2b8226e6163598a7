"""How often loops run, read from programs with and without a stated count."""

import jax
import jax.numpy as jnp
import pytest

from maxtext_sparse.preflight.hlo import parse
from maxtext_sparse.preflight.trips import trip_count

LOOP = """
%body (p: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {{
  %p = (s32[], f32[8], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant({step})
  %next = s32[] add(%i, %one)
  %x = f32[8] get-tuple-element(%p), index=1
  %n = s32[] get-tuple-element(%p), index=2
  ROOT %t = (s32[], f32[8], s32[]) tuple(%next, %x, {last})
}}

%condition (p: (s32[], f32[8], s32[])) -> pred[] {{
  %p = (s32[], f32[8], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %bound = s32[] {bound}
  ROOT %lt = pred[] compare(%i, %bound), direction={direction}
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8] parameter(0)
  %zero = s32[] constant({start})
  %limit = s32[] constant(6)
  %copy = s32[] copy(%zero)
  %t = (s32[], f32[8], s32[]) tuple(%copy, %x, %limit)
  %loop = (s32[], f32[8], s32[]) while(%t), condition=%condition, body=%body
  ROOT %out = f32[8] get-tuple-element(%loop), index=1
}}
"""
CONSTANT, ENTRY = "constant(6)", "get-tuple-element(%p), index=2"


@pytest.mark.parametrize(
  ("start", "step", "direction", "bound", "last", "trips"),
  [
    (0, 1, "LT", CONSTANT, "%n", 6),
    (0, 1, "LT", ENTRY, "%n", 6),
    (0, 4, "LT", CONSTANT, "%n", 2),
    (0, 1, "LE", CONSTANT, "%n", 7),
    (9, -1, "GT", CONSTANT, "%n", 3),
    (7, 1, "LT", CONSTANT, "%n", 0),
    (0, 1, "LT", ENTRY, "%next", None),  # the bound changes in the body
  ],
)
def test_a_counter_against_a_bound_shows_the_trips(start, step, direction, bound, last, trips):
  program = parse(LOOP.format(start=start, step=step, direction=direction, bound=bound, last=last))
  assert trip_count(program, program.entry, program.entry.instructions["loop"]) == trips


def loops_of(function, *arguments):
  program = parse(jax.jit(function).lower(*arguments).compile().as_text())
  return [
    trip_count(program, computation, instruction)
    for computation in program.computations.values()
    for instruction in computation.instructions.values()
    if instruction.opcode == "while"
  ]


def test_the_count_that_the_cpu_compiler_states_is_taken():
  scan = lambda w, x: jax.lax.scan(lambda h, layer: (jnp.tanh(h @ layer), None), x, w)[0]
  assert loops_of(scan, jnp.ones((5, 8, 8)), jnp.ones((4, 8))) == [5]


def test_a_loop_that_ends_by_its_data_has_no_count():
  halve = lambda x: jax.lax.while_loop(lambda v: jnp.sum(v) > 1, lambda v: v / 2, x)
  assert loops_of(halve, jnp.ones(8)) == [None]
