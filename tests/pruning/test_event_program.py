"""The compiled program of an event: no weight is sorted, gathered or copied; a few numbers move between devices."""

import jax
import jax.numpy as jnp
import pytest

from maxtext_sparse.pruning import event
from maxtext_sparse.pruning.groups import plan_for_schedule
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.rules import Block, NOfM, PruningRule
from maxtext_sparse.schedule import Schedule
from tests.pruning.test_threshold import _COLLECTIVE, instructions

# Stacked layers, experts in layers, and an output projection, with shards that no group and no block crosses.
PARAMETERS = {
  Parameter("mlp/wi/kernel", (256, 2, 128), (1,)): jax.P("fsdp", None, "tensor"),
  Parameter("moe/wi_0", (4, 2, 64, 128), (1, 0)): jax.P(None, None, "fsdp", "tensor"),
  Parameter("attention/out/kernel", (8, 16, 128)): jax.P("tensor", None, "fsdp"),
}
NUM_MATRICES = 2 + 8 + 1
SMALLEST = 8 * 16 * 128
RULES = {
  "global": PruningRule(0.5),
  "per_matrix": PruningRule(0.5, scope="per_matrix"),
  "erk": PruningRule(0.5, scope="erk"),
  "floor": PruningRule(0.5, min_matrix_density=0.3),
  "rms": PruningRule(0.5, score="magnitude_rms"),
  "random": PruningRule(0.5, score="random"),
  "2:4": PruningRule(0.5, structure=NOfM(2, 4)),
  "block": PruningRule(0.5, structure=Block(8, 8)),
}


def program(rule: PruningRule, mesh) -> str:
  """HLO of an event and of the update that follows from it."""
  plan = plan_for_schedule(Schedule(9, (2, 4), (0.7, 0.5)), rule, tuple(PARAMETERS))

  def update(weights, step):
    outcome = event.run_event(plan, weights, weights, step)
    return {path: jnp.where(event.survives(plan, outcome, path, w), w, 0.0) for path, w in weights.items()}

  shapes = {
    p.path: jax.ShapeDtypeStruct(p.shape, jnp.float32, sharding=jax.NamedSharding(mesh, spec))
    for p, spec in PARAMETERS.items()
  }
  return jax.jit(update).lower(shapes, jax.ShapeDtypeStruct((), jnp.int32)).compile().as_text()


IN_DEFAULT = ("per_matrix", "2:4")


@pytest.mark.parametrize(
  "rule", [pytest.param(RULES[n], id=n, marks=[] if n in IN_DEFAULT else pytest.mark.slow) for n in RULES]
)
def test_weights_stay_where_they_are(mesh, rule):
  found = instructions(program(rule, mesh))
  moved = [size for opcode, size in found if _COLLECTIVE.match(opcode)]
  # Two Counts of two numbers for each of seven candidates and each matrix.
  assert moved and max(moved) <= 28 * NUM_MATRICES
  assert not {"sort", "gather", "scatter"} & {opcode for opcode, _ in found}
  # One search for all matrices, a loop over scores and one over hashes. Floors have a search of their own before it.
  assert [opcode for opcode, _ in found].count("while") == (4 if rule.min_matrix_density else 2)
  assert max((size for opcode, size in found if opcode == "transpose"), default=0) < SMALLEST // 8
