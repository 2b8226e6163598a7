"""What differs between the supported MaxText releases, and nothing else: each release's own hooks beside the common ones.

To add a release: list it here with its differences, give it a constraints file, and run the drift tests on it.
"""

from maxtext.configs import types

from maxtext_sparse.hooks import config_hooks, loop_hooks, train_hooks
from maxtext_sparse.hooks.registry import Hook

_INITIALIZE = "maxtext.configs.pyconfig:_initialize_pydantic"
_PREPARE = "maxtext.configs.pyconfig:_prepare_for_pydantic"
_GET_OPTIMIZER = "maxtext.optimizers.optimizers:get_optimizer"


def _swap_config_class(initialize_pydantic):
  """0.2.3 names its config class in the module instead of taking it as an argument."""

  def initialize_with_keys(*args, **kwargs):
    original = types.MaxTextConfig
    types.MaxTextConfig = config_hooks.with_sparsity_keys(original)
    try:
      return initialize_pydantic(*args, **kwargs)
    finally:
      types.MaxTextConfig = original

  return initialize_with_keys


def _observe_and_evaluate_last_step(maybe_save_checkpoint):
  """0.2.3 has no iteration function; its loop reads eval_interval after the checkpoint and evaluates its multiples."""
  observe_and_save = loop_hooks.observe_steps(maybe_save_checkpoint)

  def save_and_force_eval(checkpoint_manager, state, config, data_iterator, step=None):
    if step == config.steps - 1 and config.eval_interval > 0:
      config.get_keys()["eval_interval"] = config.steps
    return observe_and_save(checkpoint_manager, state, config, data_iterator, step)

  return save_and_force_eval


def _config_class(parameters: tuple[str, ...], wrap) -> Hook:
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


def _save_checkpoint(wrap) -> Hook:
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
  _FINAL_EVAL,
)

RELEASES: dict[str, tuple[Hook, ...]] = {
  # Linen by default.
  "0.2.3": (
    _config_class(("argv", "kwargs"), _swap_config_class),
    _check_values(("raw_keys",)),
    _save_checkpoint(_observe_and_evaluate_last_step),
    _optimizer(("config", "learning_rate_schedule", "model")),
  ),
  # NNX by default, Linen on request.
  "0.2.4": (*_SINCE_0_2_4, _optimizer(("config", "learning_rate_schedule", "model"))),
  # NNX only; get_optimizer gained the mesh.
  "0.2.5": (*_SINCE_0_2_4, _optimizer(("config", "learning_rate_schedule", "model", "mesh"))),
}
