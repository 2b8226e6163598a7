"""What the tests of the optax wrapper share: small optimizers, parameters, and what becomes of them step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maxtext_sparse.pruning.transform import prune
from maxtext_sparse.schedule import Schedule

INNER = {
  "adamw": optax.adamw(1e-2, weight_decay=0.1),
  "sgd": optax.sgd(1e-2, momentum=0.9),
  "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale(-1e-2)),
}
SCHEDULE = Schedule(10, (2, 4), (0.5, 0.25))


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
