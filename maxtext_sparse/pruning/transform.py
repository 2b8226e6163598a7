"""Gradual magnitude pruning as an optax wrapper that stores nothing: the zeros are the mask.

From the first event on, a prunable weight w is zero if and only if it is pruned. With u the inner optimizer's update,
the wrapper's update is

  -w   if w is pruned, now or before          (w + -w is exactly 0)
   0   if w is live and w + u would be 0      (a live weight must not look pruned, so it skips this one update)
   u   otherwise

and before the first event u, untouched. `init` is the inner optimizer's, so the state of a sparse run has the tree of a
dense one and checkpoints move freely between the two.

Usage:

  tx = optax.adamw(1e-3)
  tx = prune(tx, schedule, is_prunable=lambda path: path.endswith("kernel"))
  ...
  loss = lambda params: f(mask_gradients(params, is_prunable, step >= schedule.first_masked_step))
  updates, state = tx.update(grads, state, params, step=step)
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from maxtext_sparse.pruning import counting, threshold
from maxtext_sparse.pruning.prunable import path_string
from maxtext_sparse.pruning.threshold import Cut
from maxtext_sparse.schedule import Schedule

PathFilter = Callable[[str], bool]


def prune(
  inner: optax.GradientTransformation,
  schedule: Schedule,
  is_prunable: PathFilter,
  on_threshold: Callable[[jax.Array], None] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Wraps an optimizer so that it prunes on schedule (paper section 3).

  Args:
    inner: any optax optimizer.
    schedule: when, and to which density.
    is_prunable: whether the parameter at a `/`-joined path is pruned.
    on_threshold: called while tracing with the float32 scalar threshold of this step's event, 0 where there is none.

  Returns:
    A transformation with `inner`'s state. Its update takes `step`, the train state's step as an integer scalar: an
    optimizer's own count stops on skipped steps, the schedule must not.
  """
  inner = optax.with_extra_args_support(inner)

  def update_fn(updates, state, params=None, *, step, **extra_args):
    if params is None:
      raise ValueError("params=None: magnitude pruning ranks the weights, pass them to update")
    updates, state = inner.update(updates, state, params, **extra_args)
    weights = _prunable_leaves(params, is_prunable)
    cut = _event_cut(schedule, list(weights.values()), jnp.asarray(step))
    if on_threshold is not None:
      on_threshold(cut.threshold)
    offsets = dict(zip(weights, threshold.index_offsets(list(weights.values()))))
    is_started = jnp.asarray(step) >= schedule.start

    def pruned_update(path, weight, update):
      path = path_string(path)
      if path not in weights:
        return update
      return jnp.where(is_started, _pruned_update(weight, update, cut, offsets[path]), update)

    return jax.tree_util.tree_map_with_path(pruned_update, params, updates), state

  return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def mask_gradients(params: Any, is_prunable: PathFilter, is_masked: jax.Array) -> Any:
  """The same parameters, whose gradient is zero where a prunable weight is zero.

  Differentiating through this gives the gradients of the sparse model before anything reads them, so that the gradient
  norm and the clip scale are the sparse model's.

  Args:
    params: tree of arrays.
    is_prunable: whether the parameter at a path is pruned.
    is_masked: bool scalar; False leaves gradients alone (before the first event a zero weight is live).
  """

  def mask(path, weight):
    return _mask_gradient(weight, is_masked) if is_prunable(path_string(path)) else weight

  return jax.tree_util.tree_map_with_path(mask, params)


def _prunable_leaves(params: Any, is_prunable: PathFilter) -> dict[str, jax.Array]:
  leaves = ((path_string(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params))
  return {path: leaf for path, leaf in leaves if is_prunable(path)}


def _event_cut(schedule: Schedule, weights: list[jax.Array], step: jax.Array) -> Cut:
  """This step's cut; on all steps but the events one that keeps what is not zero."""
  if not schedule.event_steps:
    return threshold.no_cut()
  events = jnp.array(schedule.event_steps, jnp.int32)
  step = step.astype(jnp.int32)
  keep = [counting.split_count(n) for n in schedule.keep_counts(sum(int(np.prod(w.shape)) for w in weights))]
  table = jax.tree.map(lambda *column: jnp.stack(column), *keep)
  index = jnp.maximum(jnp.sum(events <= step) - 1, 0)
  num_keep = jax.tree.map(lambda column: lax.dynamic_index_in_dim(column, index, keepdims=False), table)
  return lax.cond(jnp.any(events == step), lambda: threshold.find_cut(weights, num_keep), threshold.no_cut)


def _pruned_update(weight: jax.Array, update: jax.Array, cut: Cut, offset: int) -> jax.Array:
  # Wide enough that weight + -weight cancels exactly.
  update = update.astype(jnp.promote_types(weight.dtype, update.dtype))
  # Both tests: under fused multiply-add the sum may come out as the rounding error of `update` instead of 0.
  lands_on_zero = threshold.is_zero((weight + update).astype(weight.dtype)) | (update == -weight)
  live = jnp.where(lands_on_zero, jnp.zeros_like(update), update)
  return jnp.where(threshold.keep_mask(weight, cut, offset), live, -weight.astype(update.dtype))


@jax.custom_vjp
def _mask_gradient(weight: jax.Array, is_masked: jax.Array) -> jax.Array:
  del is_masked
  return weight


def _mask_gradient_fwd(weight, is_masked):
  return weight, (weight, is_masked)


def _mask_gradient_bwd(residuals, gradient):
  weight, is_masked = residuals
  return jnp.where(is_masked & threshold.is_zero(weight), jnp.zeros_like(gradient), gradient), None


_mask_gradient.defvjp(_mask_gradient_fwd, _mask_gradient_bwd)
