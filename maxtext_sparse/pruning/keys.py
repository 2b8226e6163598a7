"""The integer by which a weight is ranked, and the hash that breaks ties.

The bits of a non-negative float, read as an integer, order like the float: 1.0 is 0x3F800000, 2.0 is 0x40000000. So a
ranking by magnitude, or by any non-negative score, is a ranking of int32 keys, and key 0 means "pruned".
"""

from collections.abc import Sequence
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

LOWEST = np.int32(-(2**31))
HIGHEST = np.int32(2**31 - 1)
SMALLEST_NORMAL = np.int32(0x00800000)
INFINITY = np.int32(0x7F800000)


def bits_of(values: jax.Array) -> jax.Array:
  """The bits of |values| as float32; int32 >= 0. float64 values are rounded, and NaN has the largest bits."""
  return lax.bitcast_convert_type(jnp.abs(values.astype(jnp.float32)), jnp.int32)


def magnitude_key(weight: jax.Array) -> jax.Array:
  """int32 >= 0 that orders like |w|; subnormals count as zero, since XLA's CPU flushes them. NaN is the largest."""
  bits = bits_of(weight)
  return jnp.where(bits < SMALLEST_NORMAL, jnp.int32(0), bits)


def score_key(weight: jax.Array, score: jax.Array) -> jax.Array:
  """int32 key of a weight by its non-negative score: 0 where the weight is zero, INFINITY where it is not finite.

  Live weights have keys from SMALLEST_NORMAL on, also where their score is 0.
  """
  rank = jnp.clip(bits_of(score), SMALLEST_NORMAL, INFINITY - np.int32(1))
  return jnp.where(is_zero(weight), jnp.int32(0), jnp.where(is_nonfinite(weight), INFINITY, rank))


def is_zero(weight: jax.Array) -> jax.Array:
  """Whether a weight counts as pruned: zero of either sign or subnormal. NaN is not zero."""
  return magnitude_key(weight) == 0


def is_nonfinite(weight: jax.Array) -> jax.Array:
  """Whether a weight is NaN or infinite."""
  return magnitude_key(weight) >= INFINITY


def index_hash(shape: Sequence[int], offset: int | jax.Array, seed: int = 0) -> jax.Array:
  """uint32 hash of each element's global index, offset + its row-major index; equal on every mesh.

  The finaliser of MurmurHash3 is a bijection of 32-bit integers: no two hashes are equal up to 2^32 weights, and beyond
  that at most ceil(N / 2^32) weights share one.
  """
  first = jnp.uint32(offset % 2**32) if isinstance(offset, int) else offset
  index = jnp.full(shape, first)
  for axis in range(len(shape)):
    stride = np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
    index = index + lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
  return _scrambled(index ^ _scrambled(jnp.uint32(seed)) if seed else index)


def _scrambled(value: jax.Array) -> jax.Array:
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    value = (value ^ (value >> np.uint32(shift))) * np.uint32(factor)
  return value ^ (value >> np.uint32(16))


def tiebreak_key(shape: Sequence[int], offset: int | jax.Array) -> jax.Array:
  """`index_hash` as int32."""
  return lax.bitcast_convert_type(index_hash(shape, offset), jnp.int32)
