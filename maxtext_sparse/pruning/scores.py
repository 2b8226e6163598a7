"""What ranks the weights: a score for each, non-negative float32, of which the smallest go first.

  magnitude        |w|
  magnitude_rms    |w| / rms(live weights of its matrix)
  random           a hash of the weight's place and `pruning_seed`, the same at each event and after each restart
  package.module:function
                   a function of yours, `score(weight, parameter)` or `score(weight, parameter, gradient)`

Your function gets the array, its `Parameter` (path, shape, which axes are stacked), and if it asks for it the gradient
of this step. It returns an array of the weight's shape. It is traced by jax, runs at events only, and stores nothing.
Example, saliency by one gradient:

  def saliency(weight, parameter, gradient):
    return jnp.abs(weight * gradient)

Scores that need a history, such as movement (the sum of w * g over many steps), are not offered: the sum would be train
state, 4 bytes a weight, and a checkpoint of such a run would no longer be a dense one's.
"""

from collections.abc import Callable
import inspect

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from maxtext_sparse.pruning import counting, keys, matrices
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.rules import load_function

# Scores are rounded to 12 bits below their matrix's largest before they are squared: exact integers add up to the same
# on every mesh, floats do not.
_BITS = 12
_HALF = 2**_BITS

ScoreFunction = Callable[..., jax.Array]


def random_score(weight: jax.Array, offset: int, seed: int) -> jax.Array:
  """1 to 2^24, by the weight's global index alone; float32 holds these integers exactly."""
  # Another stream than the tie-break's, or equal scores would be broken by the same bits again.
  return ((keys.index_hash(weight.shape, offset, seed + 1) >> np.uint32(8)) + np.uint32(1)).astype(jnp.float32)


def user_score(name: str, weight: jax.Array, parameter: Parameter, gradient: jax.Array) -> jax.Array:
  """Calls a user's function and checks what it returns.

  Raises:
    ValueError: it returns another shape than the weight's.
  """
  function = load_function(name)
  wants_gradient = "gradient" in inspect.signature(function).parameters
  score: jax.Array = function(weight, parameter, gradient) if wants_gradient else function(weight, parameter)
  if jnp.shape(score) != weight.shape:
    raise ValueError(
      f"pruning_score={name}: returned shape {jnp.shape(score)} for {parameter.path}, must be {weight.shape}"
    )
  return score


def inverse_rms(weight: jax.Array, parameter: Parameter) -> jax.Array:
  """1 / rms of each matrix's live weights, float32 [num_matrices]; 1 for a matrix without any. Equal on every mesh."""
  high, low, unit = square_halves(weight, parameter)
  total = _as_float(matrices.sum_each(high, parameter, _HALF + 1), matrices.sum_each(low, parameter, _HALF))
  (live,) = matrices.count_each([~keys.is_zero(weight)], parameter)
  num_live = counting.as_float(live)
  rms = jnp.sqrt(total / jnp.maximum(num_live, 1.0)) * unit
  return jnp.where(num_live > 0, 1.0 / jnp.maximum(rms, jnp.finfo(jnp.float32).tiny), 1.0)


def square_halves(score: jax.Array, parameter: Parameter) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Squares of scores as integers that can be added in any order.

  With the largest score of a matrix in [2^e, 2^(e+1)), a score s becomes q = round(s / unit), unit = 2^(e - 11), at most
  4096, and q^2 = 4096 high + low.

  Returns:
    high, int32 at most 4096, and low, int32 below 4096, both of the array's shape; unit, float32 [num_matrices].
  """
  biased_exponent = matrices.largest_each(keys.bits_of(score), parameter) >> 23
  # 2^(11 - e) must not overflow: smaller matrices than 2^-100 lose bits.
  exponent = jnp.maximum(biased_exponent - 127, -100)
  power_of_two = lambda e: lax.bitcast_convert_type((e + 127) << 23, jnp.float32)
  to_units = matrices.spread(power_of_two(_BITS - 1 - exponent), parameter)
  quantum = jnp.round(jnp.abs(score.astype(jnp.float32)) * to_units).astype(jnp.int32)
  square = quantum * quantum
  return square >> _BITS, square & np.int32(_HALF - 1), power_of_two(exponent - _BITS + 1)


def block_norms(score: jax.Array, parameter: Parameter, split: tuple[int, ...], within: tuple[int, ...]) -> jax.Array:
  """sqrt(sum of squares) of blocks, float32, equal on every mesh.

  Args:
    score: array of the parameter's shape.
    parameter: the parameter.
    split: the array's shape with each blocked axis of size K split into (K / R, R).
    within: positions of the R axes in `split`.
  """
  high, low, unit = square_halves(score, parameter)
  highs, lows = counting.sum_axes([high.reshape(split), low.reshape(split)], within)
  total = highs.astype(jnp.float32) * _HALF + lows.astype(jnp.float32)
  return jnp.sqrt(total) * matrices.spread(unit, parameter)


def _as_float(high: counting.Count, low: counting.Count) -> jax.Array:
  high_part: jax.Array = counting.as_float(high) * jnp.float32(_HALF)
  return high_part + counting.as_float(low)
