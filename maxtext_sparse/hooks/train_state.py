"""One view of MaxText's two train states.

  Linen   `TrainState`          step at state.step,                weights at state.params
  NNX     `State`, a dict-like  step at state["optimizer"]["step"], weights at state["model"]

MaxText 0.2.3 trains with the first by default, 0.2.4 with the second, and 0.2.5 knows only the second.
"""

from collections.abc import Iterator
import contextlib
from typing import Any

from flax import linen, nnx
import jax

from maxtext_sparse.pruning.prunable import Parameter, parameters_of
from maxtext_sparse.pruning.transform import mask_gradients, PathFilter


def step_of(state: Any) -> jax.Array:
  """The train state's step, an integer scalar, inside or outside of a trace."""
  step: Any = state["optimizer"]["step"] if _is_nnx(state) else state.step
  value: jax.Array = step.get_value() if hasattr(step, "get_value") else step
  return value


def weights_of(state: Any) -> Any:
  """The model's variables, trainable or not, as a tree whose leaves are arrays or flax variables."""
  return state["model"] if _is_nnx(state) else state.params


def split_state(state: Any) -> Any:
  """The train state as `train_step` takes it. MaxText sets training up with an NNX module and splits it later."""
  return nnx.state(state) if isinstance(state, nnx.Module) else state


def abstract_parameters(model: Any, config: Any) -> tuple[Parameter, ...]:
  """All parameters of a model, with their logical axis names.

  Args:
    model: a Linen module, or an NNX module that may hold shapes in place of arrays.
    config: MaxText's config of this model.
  """
  if isinstance(model, linen.Module):
    from maxtext.utils import maxtext_utils

    return parameters_of(maxtext_utils.get_abstract_param(model, config)["params"])
  return parameters_of(nnx.state(model, nnx.Param))


@contextlib.contextmanager
def masked_weights(model: nnx.Module, is_prunable: PathFilter, is_masked: jax.Array | bool) -> Iterator[None]:
  """Within the block, prunable weights of an NNX model that are zero get no gradient.

  NNX keeps the weights in the model, which outlives the block: it gets its own ones back.
  """
  weights = nnx.as_pure(nnx.state(model, nnx.Param))
  nnx.update(model, mask_gradients(weights, is_prunable, is_masked))
  try:
    yield
  finally:
    nnx.update(model, weights)


def _is_nnx(state: Any) -> bool:
  return isinstance(state, nnx.State)
