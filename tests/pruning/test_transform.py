"""The optax wrapper: when weights go, that they stay away, and that all else is the inner optimizer's."""

import itertools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxtext_sparse.pruning.transform import prune
from maxtext_sparse.schedule import Schedule
from tests.pruning.trajectories import (
  assert_trees_equal,
  drop_step,
  FROZEN,
  INNER,
  is_kernel,
  kernels,
  make_params,
  make_step,
  num_live,
  op_by_op,
  PRUNED,
  random_like,
  SCHEDULE,
  trajectory,
)

# Types of parameters and updates that meet in mixed-precision training.
DTYPES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "bfloat16")]


# --- the state is the inner optimizer's -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INNER)
def test_init_is_the_inner_optimizers(name):
  params = make_params()
  assert_trees_equal(PRUNED[name].init(params), INNER[name].init(params))


@pytest.mark.parametrize("name", INNER)
def test_init_works_on_shapes_alone(name):
  params = jax.eval_shape(make_params)
  assert jax.eval_shape(PRUNED[name].init, params) == jax.eval_shape(INNER[name].init, params)


@pytest.mark.parametrize("name", INNER)
def test_the_state_after_an_event_is_the_inner_optimizers_bit_for_bit(name):
  params, grads = make_params(), random_like(make_params(), 1)
  pruned, sparse_state = op_by_op(PRUNED[name])(params, PRUNED[name].init(params), grads, 2)
  _, dense_state = op_by_op(drop_step(INNER[name]))(params, INNER[name].init(params), grads, 2)
  assert num_live(pruned) == 576
  assert_trees_equal(sparse_state, dense_state)


@pytest.mark.parametrize(
  "name, dtype", [("adamw", "float32"), ("adamw", "bfloat16"), ("sgd", "float32"), ("chain", "float32")]
)
def test_before_the_first_event_the_run_is_the_inner_optimizers_bit_for_bit(name, dtype):
  params = make_params(dtype)
  params["params"]["mlp"]["kernel"] = params["params"]["mlp"]["kernel"].at[:8].set(0)  # zeros are still live
  sparse = trajectory(PRUNED[name], params, range(2), step_of=op_by_op)
  dense = trajectory(drop_step(INNER[name]), params, range(2), step_of=op_by_op)
  assert num_live(params) < num_live(dense[-1])
  for ours, theirs in zip(sparse, dense):
    assert_trees_equal(ours, theirs)


def test_parameters_that_are_not_prunable_take_the_inner_update_at_every_step():
  sparse = trajectory(PRUNED["adamw"], make_params(), range(6), step_of=op_by_op)
  dense = trajectory(drop_step(INNER["adamw"]), make_params(), range(6), step_of=op_by_op)
  for ours, theirs in zip(sparse, dense):
    np.testing.assert_array_equal(ours["params"]["norm"]["scale"], theirs["params"]["norm"]["scale"])


# --- events -----------------------------------------------------------------------------------------------------------


def test_densities_follow_the_schedule_exactly():
  live = [num_live(params) for params in trajectory(PRUNED["adamw"], make_params(), range(6))]
  assert live == [1_152, 1_152, 576, 576, 288, 288]


def test_an_event_ranks_the_weights_before_the_update_and_acts_in_it():
  params = {"kernel": jnp.array([1.0, -2.0, 3.0, -4.0])}
  grads = {"kernel": jnp.array([-100.0, 100.0, 2.0, 3.0])}  # after the update the first two would be the largest
  tx = prune(optax.sgd(1.0), Schedule(5, (1,), (0.5,)), is_kernel)
  before, _ = make_step(tx)(params, tx.init(params), grads, 0)
  assert before["kernel"].tolist() == [101.0, -102.0, 1.0, -7.0]
  after, _ = make_step(tx)(params, tx.init(params), grads, 1)
  assert after["kernel"].tolist() == [0.0, 0.0, 1.0, -7.0]


def test_all_prunable_parameters_compete_under_one_threshold():
  params = {"a": {"kernel": jnp.array([5.0, 6.0, 7.0])}, "b": {"kernel": jnp.array([1.0, 2.0, 8.0])}}
  tx = prune(optax.sgd(0.0), Schedule(5, (0,), (0.5,)), is_kernel)
  updates, _ = tx.update(params, tx.init(params), params, step=0)
  assert optax.apply_updates(params, updates)["a"]["kernel"].tolist() == [0.0, 6.0, 7.0]
  assert optax.apply_updates(params, updates)["b"]["kernel"].tolist() == [0.0, 0.0, 8.0]


def test_an_event_repeated_changes_nothing():
  params = make_params()
  once, state = make_step(FROZEN)(params, FROZEN.init(params), params, 4)
  twice, _ = make_step(FROZEN)(once, state, params, 4)
  assert num_live(once) == 288
  assert_trees_equal(once, twice)


def test_dense_weights_between_events_stay_dense_until_the_next_event_reaches_its_density():
  live = [num_live(params) for params in trajectory(PRUNED["adamw"], make_params(), (3, 4, 5))]
  assert live == [1_152, 288, 288]


def test_the_event_after_a_missed_one_catches_up():
  live = [num_live(p) for p in trajectory(PRUNED["adamw"], make_params(), (0, 1, 3, 4))]
  assert live == [1_152, 1_152, 1_152, 288]


def test_weights_sparser_than_the_schedule_are_left_as_they_are():
  params = make_params()
  params["params"]["out"]["kernel"] = jnp.zeros((16, 40))
  after = trajectory(PRUNED["adamw"], params, (2,))[-1]
  np.testing.assert_array_equal(kernels(after) != 0, kernels(params) != 0)


def test_hold_prunes_nothing_and_keeps_the_zeros_from_the_first_step():
  params = make_params()
  params["params"]["mlp"]["kernel"] = params["params"]["mlp"]["kernel"].at[::2].set(0)
  after = trajectory(prune(INNER["adamw"], Schedule(10, (), (), "hold"), is_kernel), params, range(4))[-1]
  np.testing.assert_array_equal(kernels(after) != 0, kernels(params) != 0)
  assert (kernels(after) != kernels(params)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_at_an_event_leaves_the_mask_unchanged(bad):
  tx = PRUNED["sgd"]
  params = trajectory(tx, make_params(), range(4))[-1]
  where = np.argwhere(np.asarray(params["params"]["mlp"]["kernel"]) != 0)[0]
  broken = jax.tree.map(lambda x: x, params)
  broken["params"]["mlp"]["kernel"] = params["params"]["mlp"]["kernel"].at[tuple(where)].set(bad)
  after = trajectory(tx, broken, (4,))[-1]
  np.testing.assert_array_equal(kernels(after) != 0, kernels(params) != 0)
  assert num_live(trajectory(tx, params, (4,))[-1]) == 288


@pytest.mark.parametrize("at", [4, np.int64(4), np.uint8(4), jnp.int32(4), jnp.uint32(4)])
def test_the_step_may_be_any_integer(at):
  params = make_params()
  after, _ = make_step(FROZEN)(params, FROZEN.init(params), params, at)
  assert num_live(after) == 288


def test_the_threshold_is_reported_at_events_and_is_zero_elsewhere():
  params = {"kernel": jnp.array([1.0, -2.0, 3.0, -4.0])}

  @jax.jit
  def reported(at):
    seen = []
    tx = prune(optax.sgd(0.0), SCHEDULE, is_kernel, on_threshold=seen.append)
    tx.update(params, tx.init(params), params, step=at)
    return seen

  thresholds = [float(threshold) for at in range(5) for threshold in reported(at)]
  assert [threshold > 0 for threshold in thresholds] == [False, False, True, False, True]
  assert 2.0 < thresholds[2] <= 3.0 < thresholds[4] <= 4.0


# --- a pruned weight stays zero ---------------------------------------------------------------------------------------


def cast_updates(dtype):
  return optax.stateless(lambda updates, _: jax.tree.map(lambda u: u.astype(dtype), updates))


@pytest.mark.parametrize("dtype, update_dtype", DTYPES)
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_pruned_weight_stays_exactly_zero(name, dtype, update_dtype):
  tx = prune(optax.chain(INNER[name], cast_updates(update_dtype)), SCHEDULE, is_kernel)
  params = trajectory(tx, make_params(dtype), range(10), grad_dtype=jnp.float32)[2:]
  assert [num_live(p) for p in params] == [576] * 2 + [288] * 6
  for before, after in itertools.pairwise(params[2:]):
    np.testing.assert_array_equal(kernels(before) == 0, kernels(after) == 0)
  assert jax.tree.all(jax.tree.map(lambda x: x.dtype == dtype, params[-1]))


def test_a_pruned_weight_takes_no_update_even_where_its_update_is_not_a_number():
  params = {"kernel": jnp.array([0.0, 1.0, 0.0, 2.0])}
  grads = {"kernel": jnp.array([np.nan, 1.0, np.inf, 1.0])}
  tx = prune(optax.sgd(1.0), Schedule(5, (0,), (0.5,)), is_kernel)
  after, _ = make_step(tx)(params, tx.init(params), grads, 3)
  assert after["kernel"].tolist() == [0.0, 1.0, 0.0, 1.0]


# --- a live weight stays live -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_live_weight_that_would_land_on_zero_keeps_its_value_for_that_step(dtype):
  params = {"kernel": jnp.array([0.5, -0.75, 1.5, 0.0], dtype)}
  grads = {"kernel": jnp.array([0.5, -0.75, 0.5, 0.25], dtype)}
  tx = prune(optax.sgd(1.0), Schedule(5, (0,), (0.75,)), is_kernel)
  after, _ = make_step(tx)(params, tx.init(params), grads, 1)
  assert after["kernel"].tolist() == [0.5, -0.75, 1.0, 0.0]


def test_a_live_weight_that_would_become_subnormal_keeps_its_value():
  tiny = np.float32(2.0**-126)
  params, grads = {"kernel": jnp.array([1.5, -3.0]) * tiny}, {"kernel": jnp.array([1.0, -1.0]) * tiny}
  tx = prune(optax.sgd(1.0), Schedule(5, (0,), (1.0,)), is_kernel)
  after, _ = make_step(tx)(params, tx.init(params), grads, 1)
  assert (after["kernel"] / tiny).tolist() == [1.5, -2.0]


def test_a_live_weight_keeps_its_value_where_rounding_alone_makes_its_update_cancel_it():
  # w = round(0.1 g), so w - 0.1 g is 0 rounded twice, and the rounding error of 0.1 g in a fused multiply-add.
  grads = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=4_096), jnp.float32)}
  params = {"kernel": np.float32(0.1) * grads["kernel"]}
  tx = prune(optax.sgd(np.float32(0.1)), Schedule(5, (0,), (1.0,)), is_kernel)
  after, _ = make_step(tx)(params, tx.init(params), grads, 1)
  np.testing.assert_array_equal(after["kernel"], params["kernel"])


def run_bf16(tx, num_steps):
  """A random walk on a coarse bf16 grid around zero, on which many steps would land on zero."""
  params = {"kernel": jnp.asarray(np.random.default_rng(0).integers(1, 9, size=(64, 64)) / 64, jnp.bfloat16)}

  @jax.jit
  def run(params, state):
    def body(carry, at):
      params, state = carry
      noise = jax.random.randint(jax.random.fold_in(jax.random.key(0), at), (64, 64), -2, 3)
      updates, state = tx.update({"kernel": noise.astype(jnp.bfloat16)}, state, params, step=at)
      params = optax.apply_updates(params, updates)
      return (params, state), jnp.sum(params["kernel"] != 0)

    return lax.scan(body, (params, state), jnp.arange(num_steps))

  return np.asarray(run(params, tx.init(params))[1])


def test_twenty_five_hundred_bf16_updates_lose_no_weight():
  live = run_bf16(prune(optax.sgd(1 / 64), Schedule(2_500, (10,), (0.5,)), is_kernel), 2_500)
  assert set(live[10:].tolist()) == {2_048}


def test_the_same_walk_loses_weights_where_zeros_are_merely_frozen():
  freeze = optax.stateless(lambda updates, params: jax.tree.map(lambda u, w: jnp.where(w == 0, 0, u), updates, params))
  live = run_bf16(drop_step(optax.chain(optax.sgd(1 / 64), freeze)), 2_500)
  assert live[-1] < 2_048
