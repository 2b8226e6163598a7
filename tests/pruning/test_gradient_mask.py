"""The mask of gradients: the gradients of the sparse model, before anything reads them."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import pytest

from maxtext_sparse.pruning.transform import mask_gradients
from tests.pruning.trajectories import assert_trees_equal, is_kernel

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
