"""Hooks for training on preferences (DPO and ORPO, `train_dpo`): a sparse model keeps its zeros.

The trainer is tunix's. Its step gives the optimizer gradients and weights, and nothing else. That is enough for
`pruning_method: hold`, whose mask is the zeros themselves, at every step alike. It is not enough for a schedule, which
needs the step: a resume of this trainer restores the weights without the optimizer, so that its counts begin anew.

  get_optimizer's     checks that there are zeros, and keeps them zero in each update
  mask_forward_pass   gives pruned weights no gradient, before tunix accumulates gradients and MaxText clips them
"""

import logging
from typing import Any

from flax import nnx
import optax
import pydantic

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.hooks import sparse_run
from maxtext_sparse.hooks.registry import Function
from maxtext_sparse.hooks.settings import Settings, settings_of, values_of
from maxtext_sparse.hooks.train_state import masked_weights
from maxtext_sparse.pruning.census import PendingCensus, prunable_weights
from maxtext_sparse.pruning.groups import PruningPlan
from maxtext_sparse.pruning.prunable import parameters_of
from maxtext_sparse.pruning.transform import prune_by_plan

logger = logging.getLogger("maxtext_sparse")


def is_preference_training(config: Any) -> bool:
  """Whether a config is that of `train_dpo`, which passes the pydantic model and not `HyperParameters`."""
  return isinstance(config, pydantic.BaseModel) and bool((values_of(config) or {}).get("use_dpo"))


def hold_zeros(
  optimizer: optax.GradientTransformation, config: Any, settings: Settings, model: nnx.Module
) -> optax.GradientTransformationExtraArgs:
  """The optimizer of a model on which tunix trains preferences, with the zeros of the model held.

  Raises:
    ConfigError: there is no zero to hold.
  """
  assert settings.keys.pruning_method == "hold", "the config should have been refused"
  plan = _plan(config, settings, model)
  census = PendingCensus(plan.parameters, prunable_weights(nnx.state(model, nnx.Param), plan.parameters)).result()
  if census.total_nonzero == plan.num_prunable:
    raise ConfigError(
      "pruning_method=hold: no prunable weight is zero, so there is nothing to hold; set load_parameters_path to a "
      "sparse checkpoint"
    )
  logger.info("holding the zeros of %d weights, %d of them are live", plan.num_prunable, census.total_nonzero)
  held = prune_by_plan(optimizer, plan)

  def update_fn(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
    return held.update(updates, state, params, step=0, **extra_args)  # all steps are alike

  return optax.GradientTransformationExtraArgs(held.init, update_fn)


def mask_forward_pass(call: Function) -> Function:
  """`TunixMaxTextAdapter.__call__`: the forward pass that tunix differentiates through."""

  def masked_call(self: Any, *args: Any, **kwargs: Any) -> Any:
    config = self.base.config
    settings = settings_of(config)
    if settings is None or settings.keys.pruning_method != "hold":
      return call(self, *args, **kwargs)
    with masked_weights(self, _plan(config, settings, self).is_prunable, is_masked=True):
      return call(self, *args, **kwargs)

  return masked_call


def _plan(config: Any, settings: Settings, model: nnx.Module) -> PruningPlan:
  return sparse_run.plan_of(config, settings, parameters_of(nnx.state(model, nnx.Param)))
