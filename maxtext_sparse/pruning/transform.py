"""Pruning during training as an optax wrapper that stores nothing: the zeros are the mask.

From the first event on, a prunable weight w is zero if and only if it is pruned. With u the inner optimizer's update,
the wrapper's update is

  -w   if w is pruned, now or before          (w + -w is exactly 0)
   0   if w is live and w + u would be 0      (a live weight must not look pruned, so it skips this one update)
   u   otherwise

and before the first event u, untouched. Example: w = 0.5 and u = -0.5 would give 0.0, so w keeps 0.5 for this step.

`init` is the inner optimizer's, so the state of a sparse run has the tree of a dense one, and checkpoints move freely
between the two.
"""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxtext_sparse.pruning import counting, event, keys
from maxtext_sparse.pruning.groups import plan_for_schedule, PruningPlan
from maxtext_sparse.pruning.prunable import Parameter, path_string
from maxtext_sparse.rules import check_rule, PruningRule
from maxtext_sparse.schedule import Schedule

# A predicate over `/`-joined paths, or the paths themselves.
PathFilter = Callable[[str], bool] | Collection[str]

_RECIPE = (
  "pass the train state's step: tx.update(grads, opt_state, params, step=step); flax's TrainState.apply_gradients "
  "does not pass it, see the docstring of maxtext_sparse.prune"
)


def prune(
  inner: optax.GradientTransformation,
  schedule: Schedule,
  is_prunable: PathFilter,
  *,
  rule: PruningRule | None = None,
  on_threshold: Callable[[jax.Array], None] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Wraps an optimizer so that it prunes on schedule (paper section 3).

  The wrapper must be the outermost transformation. A transformation after it would change the updates that bring a
  weight to exactly zero: `optax.chain(prune(optax.sgd(1.0), ...), optax.scale(0.1))` prunes nothing. Put everything into
  `inner`, and check a run with `assert_pruned`.

  Every array is one matrix here: its first axis is the contraction axis of structures and shapes.

  flax Linen, where `TrainState.apply_gradients` passes no step:

    updates, opt_state = state.tx.update(grads, state.opt_state, state.params, step=state.step)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)

  flax NNX, whose `nnx.Optimizer.update` forwards keyword arguments:

    optimizer.update(model, grads, step=optimizer.step.value)

  Args:
    inner: any optax optimizer.
    schedule: when, and to which density.
    is_prunable: which parameters are pruned, by a predicate over their `/`-joined paths or by a collection of paths.
    rule: scope, structure and score; its sparsity and curve are the schedule's. Global magnitude if None.
    on_threshold: called while tracing with the float32 scalar threshold of this step's event, 0 where there is none; the
      largest one where there are several.

  Returns:
    A transformation with `inner`'s state. Its update takes `step`, the train state's step as an integer scalar: an
    optimizer's own count stops on skipped steps, the schedule must not.

  Raises:
    ValueError: in `update`, if params or step are missing, the filter matches nothing, or the rule does not fit.
  """
  rule = PruningRule(1.0 - schedule.final_density) if rule is None else rule
  check_rule(rule)
  matches = as_predicate(is_prunable)

  def plan_for(params: Any) -> PruningPlan:
    leaves = {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    chosen = [Parameter(path, tuple(leaf.shape)) for path, leaf in leaves.items() if matches(path)]
    if not chosen:
      raise ValueError(f"is_prunable={is_prunable}: matches none of the parameters, such as {next(iter(leaves), None)}")
    return plan_for_schedule(schedule, rule, chosen)

  return _pruning(inner, plan_for, on_threshold)


def prune_by_plan(
  inner: optax.GradientTransformation, plan: PruningPlan, on_threshold: Callable[[jax.Array], None] | None = None
) -> optax.GradientTransformationExtraArgs:
  """`prune` for a model whose parameters are known, with their stacked layers, in groups with a rule each."""
  return _pruning(inner, lambda params: plan, on_threshold)


def mask_gradients(params: Any, is_prunable: PathFilter, is_masked: jax.Array | bool) -> Any:
  """The same parameters, whose gradient is zero where a prunable weight is zero.

  Differentiating through this gives the gradients of the sparse model before anything reads them, so that the gradient
  norm and the clip scale are the sparse model's.

  Args:
    params: tree of arrays.
    is_prunable: as for `prune`.
    is_masked: bool scalar, `step >= schedule.first_masked_step`; False leaves gradients alone, because before the first
      event a zero weight is live.
  """
  matches = as_predicate(is_prunable)
  is_masked = jnp.asarray(is_masked)

  def mask(path: Any, weight: jax.Array) -> jax.Array:
    return _mask_gradient(weight, is_masked) if matches(path_string(path)) else weight

  return jax.tree_util.tree_map_with_path(mask, params)


def assert_pruned(params: Any, schedule: Schedule, step: int, is_prunable: PathFilter) -> None:
  """Checks on the host that the weights after the update of `step` are as sparse as the schedule wants them.

  For tests and debugging: a transformation around `prune` would keep it from pruning without a word.

  Raises:
    AssertionError: more weights are live than the schedule leaves.
  """
  matches = as_predicate(is_prunable)
  leaves = jax.tree_util.tree_leaves_with_path(params)
  weights = [leaf for path, leaf in leaves if matches(path_string(path))]
  num_prunable = sum(weight.size for weight in weights)
  live = counting.sum_counts([counting.count_true([~keys.is_zero(weight)])[0] for weight in weights])
  num_live = int(counting.to_ints(live))
  # The last event at or before `step` decides; before the first one every weight may be live.
  done = [keep for at, keep in zip(schedule.event_steps, schedule.keep_counts(num_prunable)) if at <= step]
  target = done[-1] if done else num_prunable
  assert num_live <= target, (
    f"step {step}: {num_live} of {num_prunable} weights are live, the schedule leaves {target}; is `prune` the outermost "
    "transformation, and does it get the step?"
  )


def as_predicate(is_prunable: PathFilter) -> Callable[[str], bool]:
  """A filter as a function of a path."""
  if callable(is_prunable):
    return is_prunable
  return frozenset([is_prunable] if isinstance(is_prunable, str) else is_prunable).__contains__


def _pruning(
  inner: optax.GradientTransformation,
  plan_for: Callable[[Any], PruningPlan],
  on_threshold: Callable[[jax.Array], None] | None,
) -> optax.GradientTransformationExtraArgs:
  inner = optax.with_extra_args_support(inner)

  def update_fn(gradients: Any, state: Any, params: Any = None, *, step: Any = None, **extra_args: Any) -> Any:
    if params is None:
      raise ValueError("params=None: magnitude pruning ranks the weights, pass them to update")
    if step is None:
      raise ValueError(f"step=None: {_RECIPE}")
    # Shapes alone decide the plan, so it costs nothing in the compiled program.
    plan, step = plan_for(params), jnp.asarray(step).astype(jnp.int32)
    # The inner optimizer sees the weights before the event, exactly as a dense run would.
    updates, state = inner.update(gradients, state, params, **extra_args)
    weights = _leaves_at(params, plan.paths)
    outcome = event.run_event(plan, weights, _leaves_at(gradients, plan.paths), step)
    if on_threshold is not None:
      on_threshold(outcome.threshold)
    # Before the first event a weight may be zero by chance, from its initialisation, and is live all the same.
    is_started = step >= plan.schedule.start

    def pruned_update(key_path: Any, weight: jax.Array, update: jax.Array) -> jax.Array:
      path = path_string(key_path)
      if path not in weights:
        return update
      keep = event.survives(plan, outcome, path, weight)
      return jnp.where(is_started, _pruned_update(weight, update, keep), update)

    return jax.tree_util.tree_map_with_path(pruned_update, params, updates), state

  return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _leaves_at(tree: Any, paths: Collection[str]) -> dict[str, jax.Array]:
  leaves = ((path_string(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))
  return {path: leaf for path, leaf in leaves if path in paths}


def _pruned_update(weight: jax.Array, update: jax.Array, keep: jax.Array) -> jax.Array:
  # Wide enough that weight + -weight cancels exactly.
  update = update.astype(jnp.promote_types(weight.dtype, update.dtype))
  wide = weight.astype(update.dtype)
  # Both tests: under fused multiply-add the sum may come out as the rounding error of `update` instead of 0.
  lands_on_zero = keys.is_zero((wide + update).astype(weight.dtype)) | (update == -wide)
  live = jnp.where(lands_on_zero, jnp.zeros_like(update), update)
  return jnp.where(keep, live, -wide)


# The identity forwards. Backwards, the gradient is zero where the weight is zero. Multiplying the weight by a mask would
# give the same gradient, but the forward pass would then read and write one more copy of the weights.
@jax.custom_vjp
def _mask_gradient(weight: jax.Array, is_masked: jax.Array) -> jax.Array:
  del is_masked
  return weight


def _mask_gradient_fwd(weight: jax.Array, is_masked: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return weight, (weight, is_masked)


def _mask_gradient_bwd(residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None]:
  weight, is_masked = residuals
  with jax.named_scope("gradient_mask"):
    return jnp.where(is_masked & keys.is_zero(weight), jnp.zeros_like(gradient), gradient), None


_mask_gradient.defvjp(_mask_gradient_fwd, _mask_gradient_bwd)
