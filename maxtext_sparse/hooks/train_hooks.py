"""Hooks inside the traced train step: the pruning optimizer, the step counter that drives it, the gradient mask."""

from flax import nnx
import jax
import optax

from maxtext_sparse.config import ConfigError, keys_of
from maxtext_sparse.hooks import sparse_run
from maxtext_sparse.hooks.train_state import abstract_parameters, step_of
from maxtext_sparse.pruning.transform import mask_gradients, prune


def wrap_optimizer(get_optimizer):
  """`optimizers.get_optimizer`: every trainer but RL builds its optimizer through this module attribute."""

  def get_pruning_optimizer(config, learning_rate_schedule, model=None, *args, **kwargs):
    optimizer = get_optimizer(config, learning_rate_schedule, model, *args, **kwargs)
    keys = keys_of(config)
    if not keys.is_active:
      return optimizer
    if model is None:
      raise ConfigError(
        f"sparsity={keys.sparsity}: this trainer builds its optimizer without the model, use pre-training or SFT"
      )
    run = sparse_run.begin(config, keys, abstract_parameters(model, config))
    return _stepped(prune(optimizer, run.schedule, run.is_prunable, _report_threshold))

  return get_pruning_optimizer


def publish_step(train_step):
  """`train.train_step`: hands the train state's step to the optimizer and the loss, and brings the threshold out."""

  def sparse_train_step(model, config, state_mesh_shardings, params_shardings, state, data, dropout_rng=None):
    args = (model, config, state_mesh_shardings, params_shardings, state, data, dropout_rng)
    if sparse_run.run_of(config) is None:
      return train_step(*args)
    with sparse_run.tracing(step_of(state)) as trace:
      new_state, metrics = train_step(*args)
    assert trace.threshold is not None, "the train step did not call the optimizer"
    metrics["scalar"]["pruning/threshold"] = trace.threshold
    return new_state, metrics

  return sparse_train_step


def mask_loss_gradients(loss_fn):
  """`train.loss_fn`: pruned weights get no gradient, before accumulation, clipping and norms see it."""

  def sparse_loss_fn(model, config, data, dropout_rng, params, sparsity_state=None, is_train=True):
    args = (data, dropout_rng, params, sparsity_state)
    run = sparse_run.run_of(config) if is_train else None
    if run is None:
      return loss_fn(model, config, *args, is_train=is_train)
    is_masked = sparse_run.current_trace().step >= run.schedule.first_masked_step
    if params is not None:  # Linen: the weights are an argument
      args = (data, dropout_rng, mask_gradients(params, run.is_prunable, is_masked), sparsity_state)
      return loss_fn(model, config, *args, is_train=is_train)
    weights = nnx.as_pure(nnx.state(model, nnx.Param))
    nnx.update(model, mask_gradients(weights, run.is_prunable, is_masked))
    try:
      return loss_fn(model, config, *args, is_train=is_train)
    finally:
      nnx.update(model, weights)

  return sparse_loss_fn


def _stepped(optimizer: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
  """Gives the optimizer the step of the train step being traced."""

  def update_fn(updates, state, params=None, **extra_args):
    return optimizer.update(updates, state, params, step=sparse_run.current_trace().step, **extra_args)

  return optax.GradientTransformationExtraArgs(optimizer.init, update_fn)


def _report_threshold(threshold: jax.Array) -> None:
  sparse_run.current_trace().threshold = threshold
