"""Between arrays of stacked matrices and vectors with one value for each matrix.

A vector's order is that of `Parameter.matrix_names`: row-major over the stack axes, layers before experts. For a kernel
of shape (experts 8, layers 2, emb 64, mlp 128) with stack_axes (1, 0), entry 11 = 1 * 8 + 3 is layer 1, expert 3.
"""

import math

import jax
import jax.numpy as jnp

from maxtext_sparse.pruning import counting
from maxtext_sparse.pruning.counting import Count
from maxtext_sparse.pruning.prunable import Parameter


def spread(values: jax.Array, parameter: Parameter) -> jax.Array:
  """[num_matrices] values, reshaped so that they broadcast against the parameter's array."""
  if not parameter.stack_axes:
    return values.reshape(())
  order = sorted(range(len(parameter.stack_axes)), key=parameter.stack_axes.__getitem__)
  stacked = values.reshape(parameter.stack_shape).transpose(order)
  return stacked.reshape([size if axis in parameter.stack_axes else 1 for axis, size in enumerate(parameter.shape)])


def gather(partials: jax.Array, parameter: Parameter, summed: tuple[int, ...]) -> jax.Array:
  """What is left of an array after its `summed` axes are gone, as [num_matrices, rest]."""
  left = [axis for axis in range(len(parameter.shape)) if axis not in summed]
  first = [left.index(axis) for axis in parameter.stack_axes]
  rest = [index for index in range(len(left)) if index not in first]
  return partials.transpose((*first, *rest)).reshape(parameter.num_matrices, -1)


def count_each(hits: list[jax.Array], parameter: Parameter) -> list[Count]:
  """For each bool array of the parameter's shape, how many elements of each matrix are True; Counts [num_matrices]."""
  summed = counting.reduced_axes(parameter.shape, parameter.stack_axes)
  partials = counting.count_true(hits, parameter.stack_axes)
  return [counting.sum_rows(gather(partial, parameter, summed)) for partial in partials]


def largest_each(values: jax.Array, parameter: Parameter) -> jax.Array:
  """The largest value of each matrix, [num_matrices]."""
  return gather(jnp.max(values, axis=parameter.matrix_axes), parameter, parameter.matrix_axes)[:, 0]


def sum_each(values: jax.Array, parameter: Parameter, below: int) -> Count:
  """The sum of each matrix's int32 values, which are at least 0 and less than `below`; a Count [num_matrices]."""
  summed = counting.reduced_axes(parameter.shape, parameter.stack_axes, counting.INT32_LIMIT // below)
  (partial,) = counting.sum_axes([values], summed)
  return counting.sum_rows(gather(partial, parameter, summed))


def index_offsets(parameters: list[Parameter] | tuple[Parameter, ...]) -> dict[str, int]:
  """Global index of each array's first element, by path."""
  sizes = [math.prod(p.shape) for p in parameters]
  return {p.path: sum(sizes[:i]) for i, p in enumerate(parameters)}
