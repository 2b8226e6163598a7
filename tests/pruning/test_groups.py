"""Groups with a rule each: in one event every group keeps what it would keep alone, whatever the rules of the others."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxtext_sparse.config import parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.pruning.groups import plan_pruning, PruningPlan
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.rules import Block, NOfM, PruningRule
from tests.pruning.sorting_reference import Arena, GRADIENT_SCORE
from tests.pruning.test_event import masks_of

pytestmark = pytest.mark.usefixtures("strict_promotion")

EVENTS = {"steps": 10, "gmp_start_step": 2, "gmp_end_step": 4, "gmp_pruning_frequency": 2}
GLOBAL_KEYS = EVENTS | {"sparsity": 0.7, "pruning_seed": 3}
# An entry of prune_groups, and the rule that it means. Parameters named `rest` match no entry.
GROUPS = {
  "magnitude": ({"sparsity": 0.5}, PruningRule(0.5)),
  "again": ({"sparsity": 0.5}, PruningRule(0.5)),
  "dense": ({"sparsity": 0}, None),
  "matrix": ({"scope": "per_matrix"}, PruningRule(0.7, "per_matrix")),
  "erk": ({"scope": "erk", "schedule": "cubic"}, PruningRule(0.7, "erk", schedule="cubic")),
  "rms": ({"score": "magnitude_rms", "schedule": "linear"}, PruningRule(0.7, score="magnitude_rms", schedule="linear")),
  "random": ({"score": "random", "scope": "per_matrix"}, PruningRule(0.7, "per_matrix", score="random")),
  "mine": ({"score": GRADIENT_SCORE}, PruningRule(0.7, score=GRADIENT_SCORE)),
  "two_of_four": ({"structure": "2:4"}, PruningRule(0.5, structure=NOfM(2, 4))),
  "one_of_two": (
    {"structure": "1:2", "score": "random", "scope": "per_matrix"},
    PruningRule(0.5, "per_matrix", NOfM(1, 2), "random"),
  ),
  "blocks": ({"structure": "block:4x2", "sparsity": 0.5}, PruningRule(0.5, structure=Block(4, 2))),
  "erk_blocks": (
    {"structure": "block:2x2", "scope": "erk", "score": "magnitude_rms"},
    PruningRule(0.7, "erk", Block(2, 2), "magnitude_rms"),
  ),
  "rest": (None, PruningRule(0.7)),
}
PRUNED = [name for name, (_, rule) in GROUPS.items() if rule is not None]


def parameters_of(name: str) -> tuple[Parameter, ...]:
  """A stack of two layers, and an output projection."""
  return Parameter(f"{name}/mlp/wi/kernel", (8, 2, 6), (1,)), Parameter(f"{name}/attention/out/kernel", (2, 4, 6))


@functools.cache
def plan_of(names: tuple[str, ...], min_matrix_density: float = 0.0) -> PruningPlan:
  entries = [{"match": f"^{name}/"} | GROUPS[name][0] for name in names if GROUPS[name][0] is not None]
  keys = parse_keys(GLOBAL_KEYS | {"prune_groups": entries, "min_matrix_density": min_matrix_density})
  return plan_pruning(keys, [p for name in names for p in parameters_of(name)], EVENTS["steps"])


def rule_of(name: str, min_matrix_density: float) -> PruningRule:
  """With what all rules share: the seed, and the floor, which is for rules that leave the densities of matrices open."""
  rule = GROUPS[name][1]
  is_open = rule.scope == "global" and rule.structure is None
  floor = min_matrix_density if is_open else 0.0
  return dataclasses.replace(rule, min_matrix_density=floor, seed=GLOBAL_KEYS["pruning_seed"])


def draw(plan: PruningPlan, seed: int, has_ties: bool = False) -> dict[str, np.ndarray]:
  """Weights of another scale in each array, or of few values, some of them zero."""
  rng = np.random.default_rng(seed)
  ties = lambda shape: rng.choice([-1.0, -0.5, 0.0, 0.25, 0.5], size=shape)
  values = ties if has_ties else lambda shape: rng.normal(size=shape) * rng.uniform(0.2, 5.0)
  return {p.path: values(p.shape).astype(np.float32) for p in plan.parameters}


def keep_masks(plan: PruningPlan, weights, gradients, step: int) -> dict[str, np.ndarray]:
  masks, _ = masks_of(plan, weights, gradients, jnp.int32(step))
  return {path: np.asarray(mask) for path, mask in masks.items()}


def reference_of(plan: PruningPlan, names, min_matrix_density: float, weights, gradients, index: int):
  """For each group its rule, and the mask of a sort of its own weights."""
  offset = 0
  for name, group in zip((n for n in PRUNED if n in names), groups_in_order(plan, names)):
    arena = Arena(rule_of(name, min_matrix_density), parameters_of(name), offset)
    yield arena, arena.masks(weights, gradients, group.quotas[index])
    offset += sum(p.size for p in arena.parameters)


def groups_in_order(plan: PruningPlan, names):
  pruned = [name for name in PRUNED if name in names]
  assert [group.parameters for group in plan.groups] == [parameters_of(name) for name in pruned]
  return plan.groups


def check(names: tuple[str, ...], min_matrix_density: float, seed: int, has_ties: bool = False) -> None:
  plan = plan_of(names, min_matrix_density)
  weights, gradients = draw(plan, seed, has_ties), draw(plan, seed + 1)
  for index, step in enumerate((2, 4)):
    ours = keep_masks(plan, weights, gradients, step)
    for arena, reference in reference_of(plan, names, min_matrix_density, weights, gradients, index):
      label = f"{arena.parameters[0].path}, event {index}"
      assert sum(ours[path].sum() for path in reference) == sum(mask.sum() for mask in reference.values()), label
      # Norms and scales are rounded in another way than numpy's, so that neighbours may change places.
      unit = arena.rule.structure.size if isinstance(arena.rule.structure, Block) else 1
      is_rounded = unit > 1 or arena.rule.score == "magnitude_rms"
      differing = sum((ours[path] != mask).sum() for path, mask in reference.items())
      if not (is_rounded and has_ties):
        assert differing <= (2 * unit if is_rounded else 0), label


ALL = tuple(GROUPS)


@pytest.mark.parametrize("has_ties", [False, True], ids=["normal", "ties"])
def test_every_group_keeps_what_a_sort_of_it_alone_keeps(has_ties):
  for seed in range(3):
    check(ALL, 0.0, seed, has_ties)


@pytest.mark.slow
@pytest.mark.parametrize("min_matrix_density", [0.0, 0.2])
@pytest.mark.parametrize("pair", list(itertools.combinations(PRUNED, 2)), ids="-".join)
def test_every_pair_of_rules_goes_together(pair, min_matrix_density):
  check(pair, min_matrix_density, 0)
  check(pair, min_matrix_density, 1, has_ties=True)


def test_the_other_groups_do_not_matter():
  plan = plan_of(ALL)
  weights, gradients = draw(plan, 5), draw(plan, 6)
  before = keep_masks(plan, weights, gradients, 4)
  larger = {path: w * np.float32(1.0 if path.startswith("magnitude") else 1024.0) for path, w in weights.items()}
  after = keep_masks(plan, larger, gradients, 4)
  for path, mask in before.items():
    np.testing.assert_array_equal(after[path], mask, err_msg=path)


def test_a_weight_that_is_not_finite_stops_the_event_of_every_group():
  plan = plan_of(ALL)
  weights = draw(plan, 7, has_ties=True)
  weights["random/mlp/wi/kernel"][3, 1, 2] = np.nan
  for path, mask in keep_masks(plan, weights, weights, 4).items():
    np.testing.assert_array_equal(mask, weights[path] != 0, err_msg=path)


@pytest.mark.slow
def test_eight_devices_keep_the_same_weights_as_one(mesh):
  plan = plan_of(ALL)
  weights, gradients = draw(plan, 8), draw(plan, 9)
  spec = lambda path: jax.P("fsdp", None, "tensor") if "mlp" in path else jax.P(None, "fsdp", "tensor")
  placed = {path: jax.device_put(w, jax.NamedSharding(mesh, spec(path))) for path, w in weights.items()}
  one, eight = keep_masks(plan, weights, gradients, 4), keep_masks(plan, placed, gradients, 4)
  for path, mask in one.items():
    np.testing.assert_array_equal(eight[path], mask, err_msg=path)


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_each_group_has_the_rule_of_its_entry_and_the_rest_that_of_the_global_keys():
  for min_matrix_density in (0.0, 0.2):
    rules = [group.rule for group in plan_of(ALL, min_matrix_density).groups]
    assert rules == [rule_of(name, min_matrix_density) for name in PRUNED]


def test_what_a_group_leaves_dense_is_not_counted():
  plan = plan_of(ALL)
  size = sum(p.size for p in parameters_of("dense"))
  assert plan.num_prunable == size * len(PRUNED) and not any(path.startswith("dense") for path in plan.paths)


@pytest.mark.parametrize("index", [0, 1])
def test_the_total_is_the_sum_of_what_each_group_keeps(index):
  densities = {"geometric": lambda s, x: (1 - s) ** x, "linear": lambda s, x: 1 - s * x}
  densities["cubic"] = lambda s, x: 1 - s + s * (1 - x) ** 3
  total = 0
  for name in PRUNED:
    rule = GROUPS[name][1]
    density = densities[rule.schedule](rule.sparsity, (index + 1) / 2)
    unit = rule.structure.size if isinstance(rule.structure, Block) else 1
    # Under per_matrix each matrix is rounded by itself: two of 48 weights, and one.
    sizes = [48, 48, 48] if rule.scope == "per_matrix" else [144]
    kept = sum(size - unit * round((1 - density) * size / unit) for size in sizes)
    assert sum(plan_of((name,)).groups[0].quotas[index]) == kept, name
    total += kept
  assert plan_of(ALL).schedule.kept[index] == total


def test_the_first_entry_that_matches_decides():
  keys = parse_keys(
    EVENTS | {"prune_groups": [{"match": "out", "sparsity": 0.25}, {"match": "erk", "sparsity": 0.5}], "sparsity": 0.75}
  )
  plan = plan_pruning(keys, [*parameters_of("erk"), *parameters_of("rest")], EVENTS["steps"])
  sparsity = {p.path: group.rule.sparsity for group in plan.groups for p in group.parameters}
  assert sparsity == {
    "erk/attention/out/kernel": 0.25,
    "rest/attention/out/kernel": 0.25,
    "erk/mlp/wi/kernel": 0.5,
    "rest/mlp/wi/kernel": 0.75,
  }


def test_an_entry_that_decides_on_nothing_is_refused():
  groups = [{"match": "out", "sparsity": 0.25}, {"match": "attention/out", "sparsity": 0.5}]
  keys = parse_keys(EVENTS | {"prune_groups": groups, "sparsity": 0.75})
  with pytest.raises(
    ConfigError, match=r"^prune_groups\[1\].match='attention/out': earlier entries decide on all that it"
  ):
    plan_pruning(keys, parameters_of("rest"), EVENTS["steps"])
