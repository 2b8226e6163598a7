"""One view of MaxText's two train states: Linen's `TrainState` and NNX's `State` of a `TrainStateNNX`."""

from typing import Any

from flax import linen, nnx
import jax

from maxtext_sparse.pruning.prunable import Parameter, parameters_of


def step_of(state: Any) -> jax.Array:
  """The step counter of a Linen or an NNX train state, inside or outside of a trace."""
  if not _is_nnx(state):
    return state.step
  step = state["optimizer"]["step"]
  return step.get_value() if hasattr(step, "get_value") else step


def weights_of(state: Any) -> Any:
  """The model's variables, trainable ones among them, as a tree with arrays or variables as leaves."""
  return state["model"] if _is_nnx(state) else state.params


def split_state(state: Any) -> Any:
  """A train state as train_step takes it: MaxText sets training up with an NNX module and splits it later."""
  return nnx.state(state) if isinstance(state, nnx.Module) else state


def abstract_parameters(model: Any, config: Any) -> tuple[Parameter, ...]:
  """All parameters of a model that was built from shapes alone, with their logical axis names."""
  if isinstance(model, linen.Module):
    from maxtext.utils import maxtext_utils

    return parameters_of(maxtext_utils.get_abstract_param(model, config)["params"])
  return parameters_of(nnx.state(model, nnx.Param))


def _is_nnx(state: Any) -> bool:
  return isinstance(state, nnx.State)
