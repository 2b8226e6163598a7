"""What differs between the supported MaxText releases: each release's own hooks, besides the common ones in `table`.

To add a release, list it here with its differences, add its constraints file, and run the tests marked `release` on it.
"""

from collections.abc import Callable
from typing import Any

from maxtext.configs import types

from maxtext_sparse.hooks import config_hooks, loop_hooks, preference_hooks, train_hooks
from maxtext_sparse.hooks.registry import Function, Hook
from maxtext_sparse.hooks.settings import is_maxtext_config

_INITIALIZE = "maxtext.configs.pyconfig:_initialize_pydantic"
_PREPARE = "maxtext.configs.pyconfig:_prepare_for_pydantic"
_GET_OPTIMIZER = "maxtext.optimizers.optimizers:get_optimizer"


def _swap_config_class(initialize_pydantic: Function) -> Function:
  """In 0.2.3 the function reads its config class from the module `types`; later releases take it as an argument."""

  def initialize_with_keys(*args: Any, **kwargs: Any) -> Any:
    original = types.MaxTextConfig
    types.MaxTextConfig = config_hooks.with_sparsity_keys(original)
    try:
      return initialize_pydantic(*args, **kwargs)
    finally:
      types.MaxTextConfig = original

  return initialize_with_keys


def _observe_and_evaluate_last_step(maybe_save_checkpoint: Function) -> Function:
  """Makes 0.2.3 evaluate the last step. It has no function for one iteration of its loop that could be hooked.

  Its loop reads `eval_interval` after the checkpoint and evaluates where this divides step + 1. With the number of steps
  as interval, that is so at the last step.
  """
  observe_and_save = loop_hooks.observe_steps(maybe_save_checkpoint)

  def save_and_force_eval(
    checkpoint_manager: Any, state: Any, config: Any, data_iterator: Any, step: int | None = None
  ) -> Any:
    if is_maxtext_config(config) and step == config.steps - 1 and config.eval_interval > 0:
      config.get_keys()["eval_interval"] = config.steps
    return observe_and_save(checkpoint_manager, state, config, data_iterator, step)

  return save_and_force_eval


def _config_class(parameters: tuple[str, ...], wrap: Callable[[Function], Function]) -> Hook:
  return Hook(
    target=_INITIALIZE,
    parameters=parameters,
    wrap=wrap,
    reason="MaxTextConfig forbids unknown keys, and its callers bind the class as a default argument",
    proof="tests/hooks/test_config_keys.py",
  )


def _check_values(parameters: tuple[str, ...]) -> Hook:
  return Hook(
    target=_PREPARE,
    parameters=parameters,
    wrap=config_hooks.check_values,
    reason="last call with all overrides merged before jax.distributed and the devices start",
    proof="tests/hooks/test_config_keys.py",
  )


def _optimizer(parameters: tuple[str, ...]) -> Hook:
  return Hook(
    target=_GET_OPTIMIZER,
    parameters=parameters,
    wrap=train_hooks.wrap_optimizer,
    reason="all trainers but RL build their optimizer through this attribute",
    proof="tests/hooks/test_train.py",
  )


def _forward_pass(*added: str) -> Hook:
  return Hook(
    target="maxtext.integration.tunix.tunix_adapter:TunixMaxTextAdapter.__call__",
    parameters=(
      *("self", "input_tokens", "positions", "cache", "attention_mask", "decoder_segment_ids", "output_hidden_states"),
      *added,
    ),
    wrap=preference_hooks.mask_forward_pass,
    reason="train_dpo differentiates through this call, before it accumulates gradients and clips them",
    proof="tests/hooks/test_preferences.py",
  )


def _reinforcement_learning(parameters: tuple[str, ...]) -> Hook:
  return Hook(
    target="maxtext.utils.model_creation_utils:setup_configs_and_devices",
    parameters=parameters,
    wrap=train_hooks.refuse_reinforcement_learning,
    reason="RL trainers build an optimizer of their own; here is where all of them take their configs from",
    proof="tests/hooks/test_other_trainers.py",
  )


def _save_checkpoint(wrap: Callable[[Function], Function]) -> Hook:
  return Hook(
    target="maxtext.common.checkpointing:maybe_save_checkpoint",
    parameters=("checkpoint_manager", "state", "config", "data_iterator", "step"),
    wrap=wrap,
    reason="called after every update with the new state, before the next step donates it",
    proof="tests/hooks/test_train.py",
  )


_FINAL_EVAL = Hook(
  target="maxtext.trainers.pre_train.train:training_loop_iteration",
  parameters=("jax_device_state", "python_vars", "immutable_data"),
  wrap=loop_hooks.evaluate_last_step,
  reason="the final checkpoint must have an eval loss",
  proof="tests/hooks/test_metrics.py",
)

_SINCE_0_2_4 = (
  _config_class(("argv", "config_class", "kwargs"), config_hooks.extend_config_class),
  _check_values(("raw_keys", "config_class")),
  _save_checkpoint(loop_hooks.observe_steps),
  _reinforcement_learning(("argv", "kwargs", "config_class", "extra_kwargs")),
  _FINAL_EVAL,
)

RELEASES: dict[str, tuple[Hook, ...]] = {
  # Linen by default.
  "0.2.3": (
    _config_class(("argv", "kwargs"), _swap_config_class),
    _check_values(("raw_keys",)),
    _save_checkpoint(_observe_and_evaluate_last_step),
    _reinforcement_learning(("argv", "kwargs", "extra_kwargs")),
    _forward_pass(),
    _optimizer(("config", "learning_rate_schedule", "model")),
  ),
  # NNX by default, Linen on request.
  "0.2.4": (*_SINCE_0_2_4, _forward_pass(), _optimizer(("config", "learning_rate_schedule", "model"))),
  # NNX only; get_optimizer gained the mesh.
  "0.2.5": (
    *_SINCE_0_2_4,
    _forward_pass("forced_routed_experts", "segment_ids"),
    _optimizer(("config", "learning_rate_schedule", "model", "mesh")),
  ),
}
