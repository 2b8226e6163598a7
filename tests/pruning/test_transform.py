"""The optax wrapper: when weights go, that they stay away, and that all else is the inner optimizer's."""

import functools
import itertools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxtext_sparse.pruning.transform import assert_pruned, mask_gradients, prune
from maxtext_sparse.rules import Block, NOfM, PruningRule
from maxtext_sparse.schedule import Schedule

INNER = {
  "adamw": optax.adamw(1e-2, weight_decay=0.1),
  "sgd": optax.sgd(1e-2, momentum=0.9),
  "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale(-1e-2)),
}
SCHEDULE = Schedule(10, (2, 4), (0.5, 0.25))
# Types of parameters and updates that meet in mixed-precision training.
DTYPES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "bfloat16")]


def is_kernel(path: str) -> bool:
  return path.endswith("kernel")


PRUNED = {name: prune(inner, SCHEDULE, is_kernel) for name, inner in INNER.items()}
FROZEN = prune(optax.sgd(0.0), SCHEDULE, is_kernel)  # only pruning moves a weight


def make_params(dtype=jnp.float32, seed=0):
  """1,152 prunable weights in two kernels, and a norm scale."""
  rng = np.random.default_rng(seed)
  kernel = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  return {"params": {"mlp": {"kernel": kernel(32, 16)}, "norm": {"scale": kernel(8)}, "out": {"kernel": kernel(16, 40)}}}


def random_like(tree, seed, dtype=None):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), dtype or x.dtype), tree)


def kernels(tree) -> np.ndarray:
  tree = tree["params"]
  return np.concatenate([np.ravel(np.asarray(tree[name]["kernel"], np.float32)) for name in ("mlp", "out")])


def num_live(tree) -> int:
  return int(np.count_nonzero(kernels(tree)))


@functools.cache
def make_step(tx):
  """Optimizer and parameter update in one compiled step, as a trainer has them."""

  @jax.jit
  def step(params, state, grads, at):
    updates, state = tx.update(grads, state, params, step=at)
    return optax.apply_updates(params, updates), state

  return step


def op_by_op(tx):
  """The same step without compilation as a whole.

  XLA rounds one formula differently in two programs, by what it fuses and by what the processor can do: 6e-8 between the
  dense and the sparse program on a processor without AVX-512. Operation by operation both run the same small programs.
  """
  return make_step(tx).__wrapped__


def trajectory(tx, params, steps, grad_dtype=None, step_of=make_step):
  """Parameters after each of `steps`, under random gradients that depend on the step alone."""
  step, state, seen = step_of(tx), tx.init(params), []
  for at in steps:
    params, state = step(params, state, random_like(params, 100 + int(at), grad_dtype), at)
    seen.append(params)
  return seen


@functools.cache
def drop_step(inner):
  """`inner` as it is, with the wrapper's signature."""
  inner = optax.with_extra_args_support(inner)
  return optax.GradientTransformationExtraArgs(inner.init, lambda g, s, p, step: inner.update(g, s, p))


def assert_trees_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


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


# --- as part of a compiled, sharded train step ------------------------------------------------------------------------


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


# --- gradients --------------------------------------------------------------------------------------------------------

SPARSE = {"mlp": {"kernel": jnp.array([0.0, 2.0, -0.0, 3.0])}, "norm": {"scale": jnp.array([0.0, 1.0])}}


def cubed_sum(params, x=1.0):
  """A loss with gradient 3 (w + x)^2, nowhere zero at w = 0."""
  return sum(jnp.sum((leaf + x) ** 3) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("is_masked", [True, False])
def test_a_gradient_is_zero_where_a_prunable_weight_is_zero_once_masked(is_masked):
  masked = lambda params: cubed_sum(mask_gradients(params, is_kernel, jnp.bool_(is_masked)))
  grads = jax.jit(jax.grad(masked))(SPARSE)
  dense = jax.grad(cubed_sum)(SPARSE)
  assert grads["mlp"]["kernel"].tolist() == ([0.0, 27.0, 0.0, 48.0] if is_masked else [3.0, 27.0, 3.0, 48.0])
  assert grads["norm"]["scale"].tolist() == dense["norm"]["scale"].tolist() == [3.0, 12.0]


def test_masking_gradients_leaves_the_parameters_themselves_alone():
  assert_trees_equal(mask_gradients(SPARSE, is_kernel, jnp.bool_(True)), SPARSE)


def test_a_gradient_that_is_not_a_number_is_masked_too():
  blow_up = lambda params: jnp.sum(jnp.sqrt(jnp.abs(mask_gradients(params, is_kernel, jnp.bool_(True))["kernel"])))
  grads = jax.grad(blow_up)({"kernel": jnp.array([0.0, 4.0])})
  assert grads["kernel"].tolist() == [0.0, 0.25]


def test_gradients_are_masked_under_accumulation_over_microbatches():
  loss = lambda params, x: cubed_sum(mask_gradients(params, is_kernel, jnp.bool_(True)), x)

  @jax.jit
  def accumulated(params, batches):
    add = lambda total, x: (jax.tree.map(jnp.add, total, jax.grad(loss)(params, x)), None)
    return lax.scan(add, jax.tree.map(jnp.zeros_like, params), batches)[0]

  grads = accumulated(SPARSE, jnp.array([1.0, 2.0, 3.0]))
  assert grads["mlp"]["kernel"].tolist() == [0.0, 3.0 * (9 + 16 + 25), 0.0, 3.0 * (16 + 25 + 36)]
  assert grads["norm"]["scale"].tolist() == [3.0 * (1 + 4 + 9), 3.0 * (4 + 9 + 16)]


def test_gradient_masks_survive_rematerialisation_and_a_second_use_of_the_weight():
  loss = jax.checkpoint(lambda w, x: jnp.sum(jnp.tanh(w * x + x) * w))
  masked = lambda w: functools.reduce(jnp.add, [loss(m, x) for m in [mask_kernel(w)] for x in (1.0, 2.0)])
  mask_kernel = lambda w: mask_gradients({"kernel": w}, is_kernel, jnp.bool_(True))["kernel"]
  grads = jax.jit(jax.grad(masked))(jnp.array([0.0, 0.5]))
  assert grads[0] == 0.0 and grads[1] != 0.0
