"""Events under every scope, structure and score, against references in numpy that sort; on one device and on eight."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from maxtext_sparse.pruning import event
from maxtext_sparse.pruning.groups import plan_for_schedule, PruningPlan
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.rules import Block, NOfM, PruningRule
from maxtext_sparse.schedule import Schedule
from tests.pruning.sorting_reference import Arena, GRADIENT_SCORE

pytestmark = pytest.mark.usefixtures("strict_promotion")

# A stack of two layers, a stack of three experts in two layers (experts come first in the array), and a single matrix
# whose contraction runs over two axes, as attention's output projection.
PARAMETERS = (
  Parameter("mlp/wi/kernel", (8, 2, 6), (1,)),
  Parameter("moe/wi_0", (3, 2, 8, 4), (1, 0)),
  Parameter("attention/out/kernel", (2, 4, 6)),
)
SCHEDULE = Schedule(10, (2, 4), (0.7, 0.5))
NUM_WEIGHTS = sum(p.size for p in PARAMETERS)


def wrong_shape(weight, parameter):
  del parameter
  return weight.ravel()


RULES = {
  "global": PruningRule(0.5),
  "per_matrix": PruningRule(0.5, scope="per_matrix"),
  "erk": PruningRule(0.5, scope="erk"),
  "floor": PruningRule(0.5, min_matrix_density=0.4),
  "random": PruningRule(0.5, score="random", seed=3),
  "random per_matrix": PruningRule(0.5, scope="per_matrix", score="random"),
  "user's score": PruningRule(0.5, score=GRADIENT_SCORE),
  "user's score per_matrix": PruningRule(0.5, scope="per_matrix", score=GRADIENT_SCORE),
  "2:4": PruningRule(0.5, structure=NOfM(2, 4)),
  "1:2": PruningRule(0.5, structure=NOfM(1, 2)),
  "2:4 per_matrix": PruningRule(0.5, scope="per_matrix", structure=NOfM(2, 4)),
  "2:4 random": PruningRule(0.5, structure=NOfM(2, 4), score="random"),
  "2:4 user's score": PruningRule(0.5, structure=NOfM(2, 4), score=GRADIENT_SCORE),
  "block": PruningRule(0.5, structure=Block(4, 2)),
  "block per_matrix": PruningRule(0.5, scope="per_matrix", structure=Block(2, 2)),
  "block erk": PruningRule(0.5, scope="erk", structure=Block(2, 2)),
  "floor random": PruningRule(0.5, score="random", min_matrix_density=0.3),
  "floor user's score": PruningRule(0.5, score=GRADIENT_SCORE, min_matrix_density=0.3),
}
RMS_RULES = {
  "rms": PruningRule(0.5, score="magnitude_rms"),
  "rms floor": PruningRule(0.5, score="magnitude_rms", min_matrix_density=0.4),
  "rms 2:4": PruningRule(0.5, structure=NOfM(2, 4), score="magnitude_rms"),
  "rms erk": PruningRule(0.5, scope="erk", score="magnitude_rms"),
  "rms block": PruningRule(0.5, structure=Block(4, 2), score="magnitude_rms"),
}


@functools.cache
def plan_of(rule: PruningRule) -> PruningPlan:
  return plan_for_schedule(SCHEDULE, rule, PARAMETERS)


@functools.partial(jax.jit, static_argnums=0)
def masks_of(plan: PruningPlan, weights, gradients, step):
  outcome = event.run_event(plan, weights, gradients, step)
  return {path: event.survives(plan, outcome, path, weight) for path, weight in weights.items()}, outcome.threshold


def keep_masks(rule: PruningRule, weights, gradients=None, step: int = 4) -> dict[str, np.ndarray]:
  gradients = gradients or {path: np.ones_like(w) for path, w in weights.items()}
  masks, _ = masks_of(plan_of(rule), weights, gradients, jnp.int32(step))
  return {path: np.asarray(mask) for path, mask in masks.items()}


def draw(kind: str, seed: int, dtype=np.float32) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  values = {
    "normal": lambda shape: rng.normal(size=shape) * rng.uniform(0.2, 5.0),
    "few values": lambda shape: rng.choice([-1.0, -0.5, 0.25, 0.5, 1.0], size=shape),
    "half zero": lambda shape: rng.normal(size=shape) * (rng.random(shape) < 0.5),
    "one value": lambda shape: np.full(shape, -0.75),
  }
  return {p.path: values[kind](p.shape).astype(np.float32).astype(dtype) for p in PARAMETERS}


KINDS = ("normal", "few values", "half zero", "one value")

# --- the same in numpy, by sorting ------------------------------------------------------------------------------------


def reference_masks(rule: PruningRule, weights, gradients, event_index: int) -> dict[str, np.ndarray]:
  counts = plan_of(rule).groups[0].quotas[event_index]
  return Arena(rule, PARAMETERS).masks(weights, gradients, counts)


def assert_same_masks(ours, reference) -> None:
  assert ours.keys() == reference.keys()
  for path, mask in reference.items():
    np.testing.assert_array_equal(ours[path], mask, err_msg=path)


# --- parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1), event_index=st.integers(0, 1))
@settings(max_examples=25)
def test_the_mask_is_that_of_a_sort(rule, kind, seed, event_index):
  weights = draw(kind, seed)
  gradients = draw("normal", seed + 1)
  if isinstance(rule.structure, Block):
    kind = "normal"  # norms of few values tie to the last bit, which a float norm in numpy does not
    weights = draw(kind, seed)
  ours = keep_masks(rule, weights, gradients, SCHEDULE.event_steps[event_index])
  assert_same_masks(ours, reference_masks(rule, weights, gradients, event_index))


@pytest.mark.parametrize("rule", RMS_RULES.values(), ids=RMS_RULES)
@pytest.mark.parametrize("seed", range(6))
def test_the_mask_by_rms_is_that_of_a_sort_where_scores_differ_by_more_than_the_rounding_of_the_rms(rule, seed):
  weights = draw("normal", seed)
  ours = keep_masks(rule, weights)
  reference = reference_masks(rule, weights, None, 1)
  assert sum(mask.sum() for mask in ours.values()) == sum(mask.sum() for mask in reference.values())
  differing = sum((ours[path] != reference[path]).sum() for path in ours)
  assert differing <= 2  # a pair of neighbours may change places


def test_rms_gives_matrices_of_any_scale_an_equal_chance():
  weights = draw("normal", 0)
  weights["mlp/wi/kernel"] = weights["mlp/wi/kernel"] * np.float32(1e-3)
  assert keep_masks(RULES["global"], weights)["mlp/wi/kernel"].sum() == 0
  by_rms = keep_masks(RMS_RULES["rms"], weights)
  assert all(0.3 < mask.mean() < 0.7 for mask in by_rms.values())
  scaled = {path: w * np.float32(2.0**k) for k, (path, w) in enumerate(weights.items())}
  assert_same_masks(keep_masks(RMS_RULES["rms"], scaled), by_rms)  # powers of two change no rounding


# --- what each rule promises ------------------------------------------------------------------------------------------

EVERY_RULE = RULES | RMS_RULES


@pytest.mark.parametrize("rule", EVERY_RULE.values(), ids=EVERY_RULE)
@pytest.mark.parametrize("step", SCHEDULE.event_steps)
def test_the_count_is_exact(rule, step):
  masks = keep_masks(rule, draw("normal", 1), draw("normal", 2), step)
  kept = plan_of(rule).schedule.kept[SCHEDULE.event_steps.index(step)]
  assert sum(mask.sum() for mask in masks.values()) == kept


@pytest.mark.parametrize("rule", EVERY_RULE.values(), ids=EVERY_RULE)
def test_an_event_repeated_changes_nothing(rule):
  weights, gradients = draw("normal", 3), draw("normal", 4)
  once = keep_masks(rule, weights, gradients)
  pruned = {path: np.where(once[path], w, np.float32(0)) for path, w in weights.items()}
  assert_same_masks(keep_masks(rule, pruned, gradients), once)


@pytest.mark.parametrize("rule", EVERY_RULE.values(), ids=EVERY_RULE)
def test_a_step_without_an_event_keeps_what_is_live(rule):
  weights = draw("half zero", 5)
  for path, mask in keep_masks(rule, weights, step=3).items():
    np.testing.assert_array_equal(mask, weights[path] != 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("rule", EVERY_RULE.values(), ids=EVERY_RULE)
def test_a_weight_that_is_not_finite_leaves_every_live_weight(rule, bad):
  weights = draw("half zero", 6)
  weights["moe/wi_0"][1, 0, 3, 2] = bad
  for path, mask in keep_masks(rule, weights).items():
    np.testing.assert_array_equal(mask, weights[path] != 0)


def groups_of(mask: np.ndarray, parameter: Parameter, m: int) -> np.ndarray:
  """Live weights in each group of m along the contraction axis."""
  axis = parameter.contraction_axes[-1]
  shape = (*mask.shape[:axis], mask.shape[axis] // m, m, *mask.shape[axis + 1 :])
  return mask.reshape(shape).sum(axis=axis + 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in EVERY_RULE if "2:4" in name])
def test_every_group_complies_after_the_last_event_and_keeps_its_best_on_the_way(name, kind):
  rule, weights = EVERY_RULE[name], draw(kind, 7)
  masks = keep_masks(rule, weights, step=4)
  early = keep_masks(rule, weights, step=2)
  for parameter in PARAMETERS:
    live = groups_of(weights[parameter.path] != 0, parameter, 4)
    np.testing.assert_array_equal(groups_of(masks[parameter.path], parameter, 4), np.minimum(live, 2))
    assert (masks[parameter.path] <= early[parameter.path]).all()


def test_whole_blocks_live_or_go():
  masks = keep_masks(RULES["block"], draw("normal", 8))
  blocks = masks["mlp/wi/kernel"].reshape(2, 4, 2, 3, 2).transpose(0, 2, 3, 1, 4).reshape(-1, 8)
  assert set(blocks.mean(axis=1)) == {0.0, 1.0}


def test_per_matrix_gives_every_layer_and_every_expert_the_same_density():
  masks = keep_masks(RULES["per_matrix"], draw("normal", 9))
  assert masks["mlp/wi/kernel"].sum(axis=(0, 2)).tolist() == [24, 24]
  assert masks["moe/wi_0"].sum(axis=(2, 3)).tolist() == [[16, 16]] * 3


def test_no_matrix_falls_below_its_floor_and_the_total_stays_exact():
  weights = draw("normal", 10)
  weights["mlp/wi/kernel"] *= np.float32(1e-3)
  masks = keep_masks(RULES["floor"], weights)
  assert masks["mlp/wi/kernel"].sum(axis=(0, 2)).tolist() == [20, 20]  # ceil(0.4 x 48)
  assert sum(mask.sum() for mask in masks.values()) == NUM_WEIGHTS // 2


def test_random_scores_depend_on_place_and_seed_alone():
  one = keep_masks(RULES["random"], draw("normal", 11))
  assert_same_masks(keep_masks(RULES["random"], draw("few values", 12)), one)
  other = keep_masks(PruningRule(0.5, score="random", seed=4), draw("normal", 11))
  assert any((one[path] != other[path]).any() for path in one)


def test_the_threshold_is_the_largest_cut():
  weights = draw("normal", 13)
  _, threshold = masks_of(plan_of(RULES["per_matrix"]), weights, weights, jnp.int32(4))
  masks = keep_masks(RULES["per_matrix"], weights)
  largest_gone = max(np.abs(w)[~masks[path]].max() for path, w in weights.items())
  largest_kept = max(np.abs(w)[masks[path]].max() for path, w in weights.items())
  assert largest_gone < threshold <= largest_kept


def test_a_score_of_another_shape_is_refused():
  with pytest.raises(ValueError, match=r"wrong_shape: returned shape \(96,\) for mlp/wi/kernel, must be \(8, 2, 6\)"):
    keep_masks(PruningRule(0.5, score=f"{__name__}:wrong_shape"), draw("normal", 14))


# --- on a mesh --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "dtype", [np.float32, pytest.param(ml_dtypes.bfloat16, marks=pytest.mark.slow)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("rule", EVERY_RULE.values(), ids=EVERY_RULE)
def test_eight_devices_keep_the_same_weights_as_one(mesh, rule, dtype):
  # Groups of four cross the shards of the contraction axis, which has two rows for each of four devices.
  specs = {"mlp/wi/kernel": jax.P("fsdp", None, "tensor"), "moe/wi_0": jax.P(None, "tensor", "fsdp")}
  for kind in ("normal", "few values"):
    weights, gradients = draw(kind, 15, dtype), draw("normal", 16)
    placed = {
      path: jax.device_put(w, jax.NamedSharding(mesh, specs.get(path, jax.P(None, "fsdp", "tensor"))))
      for path, w in weights.items()
    }
    assert_same_masks(keep_masks(rule, placed, gradients), keep_masks(rule, weights, gradients))
