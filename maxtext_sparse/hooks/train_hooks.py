"""Hooks inside the traced train step: the pruning optimizer, the step that drives it, and the gradient mask.

The order within one step of a sparse run, for the event at step 4 of a schedule whose first event is at 4:

  publish_step         publishes step 4
  mask_loss_gradients  step 4 is before the first masked step 5, so the gradients are the dense model's
  get_optimizer's      ranks the weights, prunes in this update, reports the threshold
  publish_step         puts the threshold among the step's metrics

The forward pass of step 5 is the first of the sparse model, and its gradients are masked.
"""

from typing import Any

import jax
import optax
import pydantic

from maxtext_sparse.config import KEYS, SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.hooks import preference_hooks, sparse_run
from maxtext_sparse.hooks.registry import Function
from maxtext_sparse.hooks.settings import Settings, settings_of
from maxtext_sparse.hooks.train_state import abstract_parameters, masked_weights, step_of
from maxtext_sparse.pruning.transform import mask_gradients, prune_by_plan


def wrap_optimizer(get_optimizer: Function) -> Function:
  """`optimizers.get_optimizer`: every trainer but RL builds its optimizer through this module attribute."""

  def get_pruning_optimizer(
    config: Any, learning_rate_schedule: Any, model: Any = None, *args: Any, **kwargs: Any
  ) -> optax.GradientTransformation:
    settings = settings_of(config)
    if settings is None or settings.schedule is None:
      return get_optimizer(config, learning_rate_schedule, model, *args, **kwargs)
    if preference_hooks.is_preference_training(config):
      optimizer = get_optimizer(config, learning_rate_schedule, model, *args, **kwargs)
      return preference_hooks.hold_zeros(optimizer, config, settings, model)
    _refuse_other_trainers(settings, config, model)
    optimizer = get_optimizer(config, learning_rate_schedule, model, *args, **kwargs)
    run = sparse_run.begin(config, settings, abstract_parameters(model, config))
    return _stepped(prune_by_plan(optimizer, run.plan, _report_threshold))

  return get_pruning_optimizer


def refuse_reinforcement_learning(setup_configs_and_devices: Function) -> Function:
  """`model_creation_utils.setup_configs_and_devices`: RL trainers take their configs from it.

  Their optimizer is an AdamW of their own, which no hook reaches: they would train dense without a word.
  """

  def setup_dense_configs(*args: Any, **kwargs: Any) -> Any:
    parts = setup_configs_and_devices(*args, **kwargs)
    for config in parts[:2]:  # of the trainer, then of the sampler
      # Without their schedule, because these trainers derive another length of the run than `steps`.
      keys = SparsityKeys(**{name: value for name, value in vars(config).items() if name in KEYS})
      if keys.is_active:
        raise ConfigError(
          f"{Settings(keys, None).describe()}: RL trainers build an optimizer of their own, which never prunes, unset it"
        )
    return parts

  return setup_dense_configs


def publish_step(train_step: Function) -> Function:
  """`train.train_step`: hands the train state's step to the optimizer and the loss, and brings the threshold out."""

  def sparse_train_step(
    model: Any,
    config: Any,
    state_mesh_shardings: Any,
    params_shardings: Any,
    state: Any,
    data: Any,
    dropout_rng: Any = None,
  ) -> Any:
    args = (model, config, state_mesh_shardings, params_shardings, state, data, dropout_rng)
    if sparse_run.run_of(config) is None:
      return train_step(*args)
    with sparse_run.tracing(step_of(state)) as trace:
      new_state, metrics = train_step(*args)
    assert trace.threshold is not None, "the train step did not call the optimizer"
    metrics["scalar"]["pruning/threshold"] = trace.threshold
    return new_state, metrics

  return sparse_train_step


def mask_loss_gradients(loss_fn: Function) -> Function:
  """`train.loss_fn`: takes the loss at weights whose gradient is zero where a prunable weight is pruned.

  Gradients are masked here, at the leaves of the differentiated function, because accumulation, clipping and norms all
  follow and must see the sparse model's. The loss itself does not change: `mask_gradients` returns equal weights.
  """

  def sparse_loss_fn(
    model: Any,
    config: Any,
    data: Any,
    dropout_rng: Any,
    params: Any,
    sparsity_state: Any = None,
    is_train: bool = True,
  ) -> Any:
    args = (data, dropout_rng, params, sparsity_state)
    run = sparse_run.run_of(config) if is_train else None
    if run is None:
      return loss_fn(model, config, *args, is_train=is_train)
    is_masked = sparse_run.current_trace().step >= run.schedule.first_masked_step
    if params is not None:  # Linen passes the weights as an argument
      args = (data, dropout_rng, mask_gradients(params, run.is_prunable, is_masked), sparsity_state)
      return loss_fn(model, config, *args, is_train=is_train)
    with masked_weights(model, run.is_prunable, is_masked):
      return loss_fn(model, config, *args, is_train=is_train)

  return sparse_loss_fn


def _refuse_other_trainers(settings: Settings, config: Any, model: Any) -> None:
  """Raises ConfigError for trainers that build an optimizer here and then train without MaxText's own step.

  Distillation passes no model. The SFT trainer based on tunix passes the pydantic config instead of `HyperParameters`, as
  that for preferences does, which `preference_hooks` serves. Its step passes nothing but gradients to the optimizer.
  """
  if model is None or isinstance(config, pydantic.BaseModel):
    raise ConfigError(f"{settings.describe()}: {sparse_run.OWN_STEP}")


def _stepped(optimizer: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
  """The optimizer with `step=` filled in from the train step that is being traced."""

  def update_fn(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
    return optimizer.update(updates, state, params, step=sparse_run.current_trace().step, **extra_args)

  return optax.GradientTransformationExtraArgs(optimizer.init, update_fn)


def _report_threshold(threshold: jax.Array) -> None:
  sparse_run.current_trace().threshold = threshold
