"""The optax wrapper as part of a train step: compiled, sharded, with other arguments, other rules and other trainers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxtext_sparse.pruning.transform import assert_pruned, prune
from maxtext_sparse.rules import Block, NOfM, PruningRule
from maxtext_sparse.schedule import Schedule
from tests.pruning.trajectories import (
  assert_trees_equal,
  FROZEN,
  INNER,
  is_kernel,
  kernels,
  make_params,
  make_step,
  num_live,
  PRUNED,
  random_like,
  SCHEDULE,
  trajectory,
)


def test_the_update_compiles_once():
  tx = prune(INNER["adamw"], Schedule(10, (1, 3), (0.5, 0.25)), is_kernel)
  trajectory(tx, make_params(), map(jnp.int32, range(6)))
  assert make_step(tx)._cache_size() == 1


def test_the_update_works_on_donated_parameters():
  tx, params = PRUNED["adamw"], make_params()
  kept = trajectory(tx, params, range(5))[-1]
  step = jax.jit(make_step(tx).__wrapped__, donate_argnums=(0, 1))
  state = tx.init(params)
  for at in range(5):
    old, (params, state) = params, step(params, state, random_like(params, 100 + at), at)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
  assert_trees_equal(params, kept)


def shard(params, mesh):
  spec = lambda x: jax.P("fsdp", "tensor") if x.ndim == 2 else jax.P()
  return jax.tree.map(lambda x: jax.device_put(x, jax.NamedSharding(mesh, spec(x))), params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_eight_devices_prune_the_same_weights_as_one(mesh, dtype):
  tx, params = PRUNED["sgd"], make_params(dtype)
  for one, eight in zip(trajectory(tx, params, range(6)), trajectory(tx, shard(params, mesh), range(6))):
    np.testing.assert_array_equal(kernels(one) != 0, kernels(eight) != 0)
    np.testing.assert_allclose(kernels(one), kernels(eight), rtol=1e-6)
    assert eight["params"]["mlp"]["kernel"].sharding.spec == jax.P("fsdp", "tensor")
  assert num_live(one) == 288


def test_the_sharded_state_is_laid_out_like_the_inner_optimizers(mesh):
  params = shard(make_params(), mesh)
  sparse = jax.jit(PRUNED["adamw"].init)(params)
  dense = jax.jit(INNER["adamw"].init)(params)
  assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), sparse) == jax.tree.map(
    lambda x: (x.shape, x.dtype, x.sharding), dense
  )


def test_extra_arguments_reach_the_inner_optimizer():
  by_loss = optax.GradientTransformationExtraArgs(
    lambda params: (), lambda u, s, p, *, loss, **_: (jax.tree.map(lambda x: -loss * x, u), s)
  )
  params = {"kernel": jnp.array([1.0, 2.0])}
  tx = prune(by_loss, Schedule(5, (4,), (0.5,)), is_kernel)
  updates, _ = tx.update({"kernel": jnp.array([1.0, 1.0])}, (), params, step=0, loss=3.0, grad_norm=1.0)
  assert updates["kernel"].tolist() == [-3.0, -3.0]


def test_extra_arguments_do_not_disturb_an_inner_optimizer_that_takes_none():
  params = make_params()
  tx = PRUNED["sgd"]
  updates, _ = jax.jit(functools.partial(tx.update, step=2, loss=1.0, grad_norm=2.0))(params, tx.init(params), params)
  assert num_live(optax.apply_updates(params, updates)) == 576


def test_update_without_parameters_says_that_they_are_needed():
  with pytest.raises(ValueError, match=r"^params=None: "):
    PRUNED["sgd"].update(make_params(), PRUNED["sgd"].init(make_params()), step=0)


def test_update_without_a_step_says_who_must_pass_it():
  params = make_params()
  with pytest.raises(ValueError, match=r"^step=None: pass the train state's step: .*TrainState.apply_gradients does not"):
    PRUNED["sgd"].update(params, PRUNED["sgd"].init(params), params)


def test_a_filter_that_matches_nothing_is_named():
  tx = prune(optax.sgd(0.1), SCHEDULE, ["mlp/kernels"])
  with pytest.raises(
    ValueError, match=r"^is_prunable=\['mlp/kernels'\]: matches none of the parameters, such as mlp/kernel"
  ):
    tx.update(make_params(), (), make_params(), step=0)


def test_a_wrapper_that_is_not_outermost_is_noticed():
  params = make_params()
  inside = optax.chain(prune(optax.sgd(0.0), SCHEDULE, is_kernel), optax.scale(0.1))
  updates, _ = inside.update(params, inside.init(params), params, step=4)
  with pytest.raises(AssertionError, match=r"step 4: 1152 of 1152 weights are live, the schedule leaves 288; is `prune`"):
    assert_pruned(optax.apply_updates(params, updates), SCHEDULE, 4, is_kernel)
  updates, _ = FROZEN.update(params, FROZEN.init(params), params, step=4)
  assert_pruned(optax.apply_updates(params, updates), SCHEDULE, 4, is_kernel)
  assert_pruned(params, SCHEDULE, 1, is_kernel)


def test_the_recipes_of_the_docstring_prune_a_linen_and_an_nnx_model():
  from flax import linen, nnx
  from flax.training import train_state

  kernels_of = lambda tree: [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if "kernel" in str(path)]
  num_live = lambda tree: sum(int(jnp.count_nonzero(leaf)) for leaf in kernels_of(tree))
  tx = prune(optax.adamw(1e-2), Schedule(5, (2,), (0.25,)), is_kernel)

  model = linen.Dense(8)
  state = train_state.TrainState.create(
    apply_fn=model.apply, params=model.init(jax.random.key(0), jnp.ones((1, 4))), tx=tx
  )
  grads = jax.tree.map(jnp.ones_like, state.params)
  with pytest.raises(ValueError, match=r"^step=None"):
    state.apply_gradients(grads=grads)
  for _ in range(3):
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params, step=state.step)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
  assert num_live(state.params) == 8

  layer = nnx.Linear(4, 8, rngs=nnx.Rngs(0))
  optimizer = nnx.Optimizer(layer, tx, wrt=nnx.Param)
  for _ in range(3):
    grads = jax.tree.map(jnp.ones_like, nnx.state(layer, nnx.Param))
    optimizer.update(layer, grads, step=optimizer.step.get_value())
  assert int(jnp.count_nonzero(layer.kernel.get_value())) == 8


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_events_work_in_64_bit_mode(dtype):
  with jax.enable_x64(True):
    params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(16, 24)), dtype)}
    tx = prune(optax.adamw(1e-2), Schedule(9, (1, 3), (0.5, 0.25)), is_kernel)
    state = tx.init(params)
    step = jax.jit(lambda params, state, at: tx.update(params, state, params, step=at))
    for at in range(4):
      updates, state = step(params, state, at)
      params = optax.apply_updates(params, updates)
    assert params["kernel"].dtype == dtype and int(jnp.count_nonzero(params["kernel"])) == 96


RULES = {
  "per_matrix": PruningRule(0.5, scope="per_matrix"),
  "erk by rms": PruningRule(0.5, scope="erk", score="magnitude_rms"),
  "2:4": PruningRule(0.5, structure=NOfM(2, 4)),
  "block": PruningRule(0.5, structure=Block(4, 8)),
  "random with a floor": PruningRule(0.5, score="random", min_matrix_density=0.2),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_trains_to_its_density_and_holds_it(rule):
  tx = prune(optax.adamw(1e-2), Schedule(10, (2, 4), (0.75, 0.5)), is_kernel, rule=rule)
  live = [num_live(params) for params in trajectory(tx, make_params(), range(8))]
  assert live == [1_152] * 2 + [864] * 2 + [576] * 4


def test_a_structure_that_does_not_fit_is_refused_by_name():
  tx = prune(optax.sgd(0.1), Schedule(10, (2,), (0.5,)), is_kernel, rule=PruningRule(0.5, structure=NOfM(3, 6)))
  with pytest.raises(ValueError, match=r"3:6: 6 does not divide the 32 weights along the contraction axis of mlp/kernel"):
    tx.update(make_params(), (), make_params(), step=0)
