"""Exact counts over arrays of any size, on any mesh, without 64-bit integers.

int32 overflows at 2^31 and float32 skips integers from 2^24 on, and MaxText runs without x64. So each array is first
reduced over as many axes as int32 allows, and the few partial counts are added as pairs (high, low) of base 2^16.
"""

from collections.abc import Callable, Sequence
import itertools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

_INT32_LIMIT = 2**31
_BASE_BITS = 16
_MAX_PARTIALS = 2 ** (31 - _BASE_BITS)  # so that the low halves add up within int32


class Count(NamedTuple):
  """The integer high * 2^16 + low, 0 <= low < 2^16; two int32 arrays of equal shape."""

  high: jax.Array
  low: jax.Array


def split_count(value: int) -> Count:
  """A Python integer as a Count."""
  return Count(jnp.int32(value >> _BASE_BITS), jnp.int32(value & (2**_BASE_BITS - 1)))


def at_least(count: Count, bound: Count) -> jax.Array:
  """count >= bound, elementwise."""
  return (count.high > bound.high) | ((count.high == bound.high) & (count.low >= bound.low))


def subtract(count: Count, smaller: Count) -> Count:
  """count - smaller, where count >= smaller."""
  low = count.low - smaller.low
  return Count(count.high - smaller.high + (low >> _BASE_BITS), low & (2**_BASE_BITS - 1))


def as_float(count: Count) -> jax.Array:
  """The count to float32's precision."""
  return count.high.astype(jnp.float32) * 2.0**_BASE_BITS + count.low.astype(jnp.float32)


def sum_counts(partials: Sequence[jax.Array]) -> Count:
  """Adds int32 arrays of partial counts, each below 2^31, into one Count."""
  assert sum(p.size for p in partials) < _MAX_PARTIALS, "too many partial counts"
  high = sum((jnp.sum(p >> _BASE_BITS) for p in partials), jnp.int32(0))
  low = sum((jnp.sum(p & (2**_BASE_BITS - 1)) for p in partials), jnp.int32(0))
  return Count(high + (low >> _BASE_BITS), low & (2**_BASE_BITS - 1))


def reduced_axes(shape: Sequence[int], keep: Sequence[int] = ()) -> tuple[int, ...]:
  """Axes to sum over, none of `keep`: those that leave the fewest partial counts, each within int32.

  Args:
    shape: array shape.
    keep: axes that must survive.

  Returns:
    Axes whose sizes multiply to less than 2^31, in order.
  """
  axes = [axis for axis in range(len(shape)) if axis not in keep]
  subsets = (subset for r in range(len(axes), -1, -1) for subset in itertools.combinations(axes, r))
  num_summed = lambda subset: math.prod(shape[axis] for axis in subset)
  return max((subset for subset in subsets if num_summed(subset) < _INT32_LIMIT), key=num_summed)


def count_where(
  predicates: Sequence[Callable[[jax.Array], jax.Array]], array: jax.Array, keep: Sequence[int] = ()
) -> list[jax.Array]:
  """For each predicate, how many elements of `array` satisfy it; int32 partial counts over the kept axes.

  All predicates are counted in one read of the array.
  """
  axes = reduced_axes(array.shape, keep)
  hits = [predicate(array).astype(jnp.int32) for predicate in predicates]
  if jax.sharding.get_abstract_mesh().size > 1:
    # Plain sums become scalar all-reduces; a variadic reduce would all-gather one partial per device.
    return [jnp.sum(hit, axis=axes) for hit in hits]
  # XLA's CPU backend vectorises only reductions of several operands: 10 to 30 times faster than plain sums.
  hits = hits if len(hits) > 1 else hits * 2
  sums = lax.reduce(hits, [jnp.int32(0)] * len(hits), lambda a, b: [x + y for x, y in zip(a, b)], axes)
  return list(sums)[: len(predicates)]
