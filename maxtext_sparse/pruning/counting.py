"""Exact counts over arrays of any size, on any mesh, without 64-bit integers.

int32 overflows at 2^31 and float32 skips integers from 2^24 on, and MaxText runs without x64. So each array is first
reduced over as many axes as int32 allows, and the few partial counts are added as pairs (high, low) of base 2^16.

Example: 3,000,000,000 = 45,776 * 2^16 + 24,064 is Count(45776, 24064).

Every dtype is pinned: under `jax_enable_x64` a sum of int32 would otherwise become int64, and a loop that carries it
would change its type.
"""

from collections.abc import Sequence
import itertools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

INT32_LIMIT = 2**31
_BASE_BITS = 16
_LOW_BITS = np.int32(2**_BASE_BITS - 1)
_MAX_PARTIALS = 2 ** (31 - _BASE_BITS)  # so that the low halves add up within int32


class Count(NamedTuple):
  """The integers high * 2^16 + low, 0 <= low < 2^16; two int32 arrays of equal shape."""

  high: jax.Array
  low: jax.Array


def split_count(value: int) -> Count:
  """A Python integer as a Count of scalars."""
  return Count(jnp.int32(value >> _BASE_BITS), jnp.int32(value & int(_LOW_BITS)))


def split_counts(values: npt.ArrayLike) -> Count:
  """Python integers as a Count of their shape."""
  array = np.asarray(values, np.int64)
  return Count(jnp.asarray(array >> _BASE_BITS, jnp.int32), jnp.asarray(array & int(_LOW_BITS), jnp.int32))


def to_ints(count: Count) -> npt.NDArray[np.int64]:
  """The counts as int64, on the host."""
  high, low = np.asarray(count.high, np.int64), np.asarray(count.low, np.int64)
  counts: npt.NDArray[np.int64] = high * 2**_BASE_BITS + low
  return counts


def at_least(count: Count, bound: Count) -> jax.Array:
  """count >= bound, elementwise."""
  return (count.high > bound.high) | ((count.high == bound.high) & (count.low >= bound.low))


def subtract(count: Count, smaller: Count) -> Count:
  """count - smaller, where count >= smaller."""
  low = count.low - smaller.low
  # A negative low half borrows: -1 >> 16 is -1, and -1 & 0xffff is 0xffff.
  return Count(count.high - smaller.high + (low >> _BASE_BITS), low & _LOW_BITS)


def as_float(count: Count) -> jax.Array:
  """The count to float32's precision."""
  high: jax.Array = count.high.astype(jnp.float32) * jnp.float32(2.0**_BASE_BITS)
  return high + count.low.astype(jnp.float32)


def concatenate(counts: Sequence[Count]) -> Count:
  """Counts of scalars and vectors as one vector."""
  flat = [Count(jnp.ravel(count.high), jnp.ravel(count.low)) for count in counts]
  return Count(jnp.concatenate([c.high for c in flat]), jnp.concatenate([c.low for c in flat]))


def sum_counts(partials: Sequence[jax.Array]) -> Count:
  """Adds int32 arrays of partial counts, each below 2^31, into one Count of scalars."""
  assert sum(p.size for p in partials) < _MAX_PARTIALS, "too many partial counts"
  parts = [sum_rows(jnp.reshape(p, (-1,))) for p in partials]
  high, low = sum((p.high for p in parts), jnp.int32(0)), sum((p.low for p in parts), jnp.int32(0))
  return Count(high + (low >> _BASE_BITS), low & _LOW_BITS)


def sum_rows(partials: jax.Array) -> Count:
  """Adds the last axis of an int32 array of partial counts, each below 2^31."""
  assert partials.shape[-1] < _MAX_PARTIALS, "too many partial counts"
  high = jnp.sum(partials >> _BASE_BITS, axis=-1, dtype=jnp.int32)
  low = jnp.sum(partials & _LOW_BITS, axis=-1, dtype=jnp.int32)
  return Count(high + (low >> _BASE_BITS), low & _LOW_BITS)


def reduced_axes(shape: Sequence[int], keep: Sequence[int] = (), limit: int = INT32_LIMIT) -> tuple[int, ...]:
  """Axes to sum over, none of `keep`: those that leave the fewest partial sums, each within int32.

  Args:
    shape: array shape.
    keep: axes that must survive.
    limit: the sizes of the axes multiply to less than this; 2^31 / k where each element is below k.

  Returns:
    The axes, in order.
  """
  axes = [axis for axis in range(len(shape)) if axis not in keep]
  subsets = (subset for r in range(len(axes), -1, -1) for subset in itertools.combinations(axes, r))
  num_summed = lambda subset: math.prod(shape[axis] for axis in subset)
  return max((subset for subset in subsets if num_summed(subset) < limit), key=num_summed)


def sum_axes(addends: Sequence[jax.Array], axes: Sequence[int]) -> list[jax.Array]:
  """int32 sums of several arrays of one shape over the same axes, in one read of what they are computed from."""
  addends = [addend.astype(jnp.int32) for addend in addends]
  if jax.sharding.get_abstract_mesh().size > 1:
    # Plain sums become scalar all-reduces; a variadic reduce would all-gather one partial per device.
    return [jnp.sum(addend, axis=tuple(axes), dtype=jnp.int32) for addend in addends]
  # XLA's CPU backend vectorises only reductions of several operands: 10 to 30 times faster than plain sums.
  operands = addends if len(addends) > 1 else addends * 2
  sums = lax.reduce(operands, [jnp.int32(0)] * len(operands), lambda a, b: [x + y for x, y in zip(a, b)], axes)
  return list(sums)[: len(addends)]


def count_true(hits: Sequence[jax.Array], keep: Sequence[int] = ()) -> list[jax.Array]:
  """How many elements of each bool array are True; int32 partial counts over the axes that are left.

  Args:
    hits: bool arrays of one shape, computed from the same arrays, which are read once.
    keep: axes that must survive.
  """
  return sum_axes(hits, reduced_axes(hits[0].shape, keep))
