"""On a mesh of explicit axes, MaxText's `shard_mode: explicit`, events and counts are those of other meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxtext_sparse.pruning import event
from maxtext_sparse.pruning.census import PendingCensus
from maxtext_sparse.pruning.groups import plan_for_schedule
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.rules import Block, PruningRule
from maxtext_sparse.schedule import Schedule

# Layers, experts that are themselves spread over devices, and an output projection.
SPECS = {
  Parameter("mlp/wi/kernel", (64, 2, 32), (1,)): jax.P("fsdp", None, "tensor"),
  Parameter("moe/wi_0", (4, 2, 16, 32), (1, 0)): jax.P("fsdp", None, None, "tensor"),
  Parameter("attention/out/kernel", (4, 16, 32)): jax.P("tensor", None, "fsdp"),
}
RULES = {
  "global": PruningRule(0.5),
  "rms per_matrix": PruningRule(0.5, scope="per_matrix", score="magnitude_rms"),
  "block": PruningRule(0.5, structure=Block(4, 4)),
}


def pruned(rule: PruningRule, kind: jax.sharding.AxisType) -> tuple[dict[str, np.ndarray], dict[str, int]]:
  """The weights that an event leaves, and their counts by matrix."""
  mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(kind, kind))
  plan, rng = plan_for_schedule(Schedule(9, (2, 4), (0.7, 0.5)), rule, tuple(SPECS)), np.random.default_rng(0)

  @jax.jit
  def update(weights):
    outcome = event.run_event(plan, weights, weights, jnp.int32(4))
    return {path: jnp.where(event.survives(plan, outcome, path, w), w, 0.0) for path, w in weights.items()}

  with jax.set_mesh(mesh):
    place = lambda p, spec: jax.device_put(rng.normal(size=p.shape).astype(np.float32), jax.NamedSharding(mesh, spec))
    left = update({p.path: place(p, spec) for p, spec in SPECS.items()})
  # MaxText takes the first census before it makes its mesh the current one.
  census = PendingCensus(tuple(SPECS), left).result()
  return {path: np.asarray(w) for path, w in left.items()}, dict(census.nonzero)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_explicit_axes_change_nothing(rule):
  explicit, explicit_counts = pruned(rule, jax.sharding.AxisType.Explicit)
  auto, counts = pruned(rule, jax.sharding.AxisType.Auto)
  assert explicit_counts == counts and sum(counts.values()) == 10_240 // 2
  for path, weight in auto.items():
    np.testing.assert_array_equal(explicit[path], weight, err_msg=path)
