"""The work of whole programs: of small ones by the CPU and the TPU compiler, whose counts are known."""

import json
import os
from pathlib import Path
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from maxtext_sparse.preflight.hlo import parse
from maxtext_sparse.preflight.tally import PASSES, work_of
from tests.preflight import tpu_programs

SCRIPT = Path(tpu_programs.__file__)
# Products of [1024, 512] with [512, 512] on each of four devices: forward, and two for the gradients.
LAYER = 2 * tpu_programs.BATCH // 4 * tpu_programs.WIDTH**2
EXPECTED = 3 * tpu_programs.NUM_LAYERS * LAYER
# One read to count the zeros, and those of the search.
READS = 1 + sum(PASSES.values())


@pytest.fixture(scope="module")
def tpu(tmp_path_factory) -> dict:
  out = tmp_path_factory.mktemp("tpu") / "texts.json"
  variables = {key: value for key, value in os.environ.items() if key not in ("JAX_PLATFORMS", "XLA_FLAGS")}
  done = subprocess.run(
    [sys.executable, "-m", "tests.preflight.tpu_programs", str(out)],
    cwd=SCRIPT.parents[2],
    env=variables | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "true"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return {name: work_of(parse(text)) for name, text in json.loads(out.read_text()).items()}


def total(operations, name):
  return sum(getattr(operation, name) * operation.times for operation in operations)


def test_a_loop_multiplies_its_body_also_within_another():
  inner = lambda h, w: (h @ w, None)
  outer = lambda h, ws: (jax.lax.scan(inner, h, ws)[0], None)
  step = jax.jit(lambda w, x: jax.lax.scan(outer, x, w)[0])
  program = parse(step.lower(jnp.ones((3, 5, 64, 64)), jnp.ones((32, 64))).compile().as_text())
  work = work_of(program)
  assert total(work.step, "flops") == 3 * 5 * 2 * 32 * 64 * 64
  assert work.event == () and work.unknown_loops == ()


def test_a_loop_without_a_count_is_named_and_counts_once():
  step = jax.jit(lambda w: jax.lax.while_loop(lambda v: jnp.sum(v) > 1, lambda v: v @ v, w))
  work = work_of(parse(step.lower(jnp.ones((64, 64))).compile().as_text()))
  assert len(work.unknown_loops) == 1
  assert total(work.step, "flops") == 2 * 64**3


def test_the_costlier_side_of_a_branch_counts():
  step = jax.jit(lambda flag, w: jax.lax.cond(flag, lambda v: v @ v @ v, lambda v: v, w))
  work = work_of(parse(step.lower(True, jnp.ones((64, 64))).compile().as_text()))
  assert total(work.step, "flops") == 2 * 2 * 64**3


def test_scanned_layers_count_as_unscanned_ones_on_tpu(tpu):
  assert total(tpu["scanned"].step, "flops") == EXPECTED
  assert total(tpu["unscanned"].step, "flops") == pytest.approx(EXPECTED, rel=0.02)


def test_the_gather_of_each_layer_counts_in_each_trip(tpu):
  gathers = [o for o in tpu["scanned"].step if o.collective and o.collective.kind == "all-gather"]
  # The weights are gathered forward and backward, in bfloat16.
  gathered = sum(o.collective.num_bytes * o.times for o in gathers)
  assert gathered == 2 * tpu_programs.NUM_LAYERS * tpu_programs.WIDTH**2 * 2


def weight_bytes(name):
  return tpu_programs.PRUNED[name] * tpu_programs.ROWS * tpu_programs.COLUMNS // 4 * 4


@pytest.mark.parametrize("name", tpu_programs.PRUNED)
def test_an_event_reads_the_weights_once_for_the_zeros_and_once_in_each_pass(tpu, name):
  for figure in ("accessed_bytes", "hbm_bytes"):
    assert total(tpu[name].event, figure) == pytest.approx(READS * weight_bytes(name), rel=0.01)
  assert tpu[name].unknown_loops == ()


def test_the_cost_of_an_event_grows_in_proportion_to_the_weights(tpu):
  small, large = (total(tpu[name].event, "accessed_bytes") for name in ("small", "large"))
  assert small > 0 and large / small == pytest.approx(2.0, rel=0.01)


def test_an_event_sends_scalars_only(tpu):
  sent = [o.collective for o in tpu["large"].event if o.collective]
  assert sent and {c.kind for c in sent} == {"all-reduce"} and max(c.num_bytes for c in sent) <= 1024


def test_a_step_between_events_does_not_pay_for_the_event(tpu):
  """It reads weights and gradients, and writes the weights."""
  assert total(tpu["small"].step, "accessed_bytes") == pytest.approx(3 * weight_bytes("small"), rel=0.01)


def test_a_transfer_between_memories_takes_time_but_accesses_nothing_of_its_own():
  program = parse("""
ENTRY %main (w: f32[8,128]) -> f32[8,128] {
  %w = f32[8,128] parameter(0)
  %begin = (f32[8,128]{1,0:S(1)}, f32[8,128], u32[]{:S(2)}) copy-start(%w)
  ROOT %end = f32[8,128]{1,0:S(1)} copy-done(%begin)
}
""")
  [transfer] = work_of(program).step
  assert (transfer.name, transfer.accessed_bytes, transfer.hbm_bytes) == ("begin", 0, 8 * 128 * 4)
