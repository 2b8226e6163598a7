"""Counts over ten thousand low-precision updates: not one weight is lost or regrown."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxtext_sparse.pruning.transform import prune
from maxtext_sparse.schedule import Schedule

NUM_UPDATES = 10_000
SHAPE = (64, 48)
SCHEDULE = Schedule(NUM_UPDATES, (10, 1_000, 5_000), (0.75, 0.5, 0.25))
# Learning rates that keep the weights near zero, where bf16 updates cancel them often.
INNER = {
  "sgd": optax.sgd(2.0**-8),
  "momentum": optax.sgd(2.0**-9, momentum=0.9),
  "adamw": optax.adamw(2.0**-8, b1=0.9, b2=0.95, weight_decay=0.1),
}


@functools.partial(jax.jit, static_argnums=0)
def live_counts(tx, params):
  """Number of nonzero weights after each update; gradients are noise on a coarse grid that pulls towards zero."""

  def update(carry, step):
    params, state = carry
    noise = jax.random.randint(jax.random.fold_in(jax.random.key(0), step), SHAPE, -2, 3).astype(jnp.bfloat16)
    grads = {"kernel": noise + jnp.sign(params["kernel"])}
    updates, state = tx.update(grads, state, params, step=step)
    params = optax.apply_updates(params, updates)
    return (params, state), jnp.count_nonzero(params["kernel"])

  return lax.scan(update, (params, tx.init(params)), jnp.arange(NUM_UPDATES))[1]


def bf16_params():
  grid = np.random.default_rng(0).integers(1, 9, size=SHAPE) * np.random.default_rng(1).choice([-1, 1], size=SHAPE)
  return {"kernel": jnp.asarray(grid / 256, jnp.bfloat16)}


@pytest.mark.parametrize("name", INNER)
def test_no_weight_is_lost_or_regrown_in_ten_thousand_bf16_updates(name):
  live = np.asarray(live_counts(prune(INNER[name], SCHEDULE, lambda path: True), bf16_params()))
  size = SHAPE[0] * SHAPE[1]
  assert set(live[10:1_000].tolist()) == {size * 3 // 4}
  assert set(live[1_000:5_000].tolist()) == {size // 2}
  assert set(live[5_000:].tolist()) == {size // 4}


@pytest.mark.parametrize("name", INNER)
def test_the_same_updates_lose_weights_where_zeros_are_merely_frozen(name):
  freeze = optax.stateless(lambda updates, params: jax.tree.map(lambda u, w: jnp.where(w == 0, 0, u), updates, params))
  frozen = optax.chain(INNER[name], freeze)
  tx = optax.GradientTransformationExtraArgs(frozen.init, lambda g, state, p, step: frozen.update(g, state, p))
  live = np.asarray(live_counts(tx, bf16_params()))
  assert live[-1] < live[0]
