"""The exact k-th largest magnitude over many arrays, by counting: no gather, no sort, no concatenation.

Each weight has a composite key, compared lexicographically:

  (magnitude bits of |w| as float32, a bijective hash of the weight's global index)

The bits of a non-negative float order like the float. The hash breaks ties the same way on every mesh, spread over the
matrix instead of running through it from one corner. The search finds the largest key that at least k weights reach, two
bits of the key per pass; a pass reads the weights once and moves a few scalars between devices.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from maxtext_sparse import counting
from maxtext_sparse.counting import Count

_KEY_BITS = 32
_BITS_PER_PASS = 2
_NUM_PASSES = _KEY_BITS // _BITS_PER_PASS
_LOWEST = np.int32(-(2**31))
_SMALLEST_NORMAL = np.int32(0x00800000)
_INFINITY = np.int32(0x7F800000)


class Cut(NamedTuple):
  """The key of the last weight that survives; two int32 scalars. (0, lowest) keeps every non-zero weight."""

  magnitude: jax.Array
  tiebreak: jax.Array

  @property
  def threshold(self) -> jax.Array:
    """A magnitude that all surviving weights reach and no other, up to ties; float32."""
    return lax.bitcast_convert_type(self.magnitude, jnp.float32)


def no_cut() -> Cut:
  """Keeps every weight that is not zero."""
  return Cut(jnp.int32(0), jnp.int32(_LOWEST))


def magnitude_key(weight: jax.Array) -> jax.Array:
  """int32 >= 0 that orders like |w|; subnormals count as zero, since XLA's CPU flushes them. NaN is the largest."""
  bits = lax.bitcast_convert_type(jnp.abs(weight.astype(jnp.float32)), jnp.int32)
  return jnp.where(bits < _SMALLEST_NORMAL, jnp.int32(0), bits)


def is_zero(weight: jax.Array) -> jax.Array:
  """Whether a weight counts as pruned: zero of either sign or subnormal. NaN is not zero."""
  return magnitude_key(weight) == 0


def is_nonfinite(weight: jax.Array) -> jax.Array:
  """Whether a weight is NaN or infinite."""
  return magnitude_key(weight) >= _INFINITY


def tiebreak_key(shape: Sequence[int], offset: int) -> jax.Array:
  """int32 hash of each element's global index, offset + its row-major index; equal on every mesh.

  The finaliser of MurmurHash3 is a bijection of 32-bit integers: no two keys are equal up to 2^32 weights, and beyond
  that at most ceil(N / 2^32) weights share one.
  """
  index = jnp.full(shape, np.uint32(offset % 2**32))
  for axis in range(len(shape)):
    stride = np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
    index = index + lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    index = (index ^ (index >> np.uint32(shift))) * np.uint32(factor)
  return lax.bitcast_convert_type(index ^ (index >> np.uint32(16)), jnp.int32)


def keep_mask(weight: jax.Array, cut: Cut, offset: int) -> jax.Array:
  """bool, True where the weight's key reaches the cut; never True where the weight is zero."""
  key = magnitude_key(weight)
  ties = (key == cut.magnitude) & (tiebreak_key(weight.shape, offset) >= cut.tiebreak)
  return ((key > cut.magnitude) | ties) & (key > 0)


def index_offsets(weights: Sequence[jax.Array]) -> list[int]:
  """Global index of each array's first element."""
  sizes = [math.prod(w.shape) for w in weights]
  return [sum(sizes[:i]) for i in range(len(sizes))]


def find_cut(weights: Sequence[jax.Array], num_keep: Count) -> Cut:
  """The cut that leaves `num_keep` weights.

  Args:
    weights: arrays of any float type up to 32 bits, any sharding.
    num_keep: how many weights to keep, as a `Count` of scalars.

  Returns:
    The cut; `no_cut()` where fewer than `num_keep` weights are non-zero, or where one is not finite.
  """
  counted = _count(weights, [lambda w, _: magnitude_key(w) > 0, lambda w, _: is_nonfinite(w)])
  nonzero, nonfinite = counted
  is_needed = ~counting.at_least(num_keep, nonzero) & ~counting.at_least(nonfinite, counting.split_count(1))
  return lax.cond(is_needed, lambda: _search(weights, num_keep), no_cut)


def _search(weights: Sequence[jax.Array], num_keep: Count) -> Cut:
  magnitude, reached = _largest_key(weights, num_keep, lambda w, _, key: magnitude_key(w) >= key)

  def break_ties():
    def reaches(w, offset, key):
      bits = magnitude_key(w)
      return (bits > magnitude) | ((bits == magnitude) & (tiebreak_key(w.shape, offset) >= key))

    return _largest_key(weights, num_keep, reaches)[0]

  is_exact = counting.at_least(num_keep, reached)
  return Cut(magnitude, lax.cond(is_exact, lambda: jnp.int32(_LOWEST), break_ties))


def _largest_key(
  weights: Sequence[jax.Array], num_keep: Count, reaches: Callable[[jax.Array, int, jax.Array], jax.Array]
) -> tuple[jax.Array, Count]:
  """Largest int32 key that at least `num_keep` weights reach, and how many do; or any key that exactly so many reach.

  `reaches(weight, offset, key)` must be monotone in `key`, and true for every weight at the lowest key.
  """
  everything = counting.split_count(sum(math.prod(w.shape) for w in weights))

  def is_open(carry):
    i, _, reached = carry
    return (i < _NUM_PASSES) & ~counting.at_least(num_keep, reached)

  def search_pass(carry):
    i, low, reached = carry
    step = jnp.int32(1) << (_KEY_BITS - _BITS_PER_PASS * (i + 1))
    candidates = [low + step * (j + 1) for j in range(2**_BITS_PER_PASS - 1)]
    # Tied to the pass, or XLA computes every weight's key once before the loop and stores them: 4 bytes a weight.
    fenced, candidates = lax.optimization_barrier((list(weights), candidates))
    counts = _count(fenced, [functools.partial(_reaches_key, reaches, key) for key in candidates])
    for key, count in zip(candidates, counts):
      enough = counting.at_least(count, num_keep)
      low = jnp.where(enough, key, low)
      reached = jax.tree.map(functools.partial(jnp.where, enough), count, reached)
    return i + 1, low, reached

  _, low, reached = lax.while_loop(is_open, search_pass, (jnp.int32(0), jnp.int32(_LOWEST), everything))
  return low, reached


def _reaches_key(reaches, key, weight, offset):
  return reaches(weight, offset, key)


def _count(weights, predicates) -> list[Count]:
  """One Count per predicate `(weight, offset) -> bool array`, over all weights, in one read of them."""
  partials: list[list[jax.Array]] = [[] for _ in predicates]
  for weight, offset in zip(weights, index_offsets(weights)):
    bound = [functools.partial(_at_offset, predicate, offset) for predicate in predicates]
    for sink, partial in zip(partials, counting.count_where(bound, weight)):
      sink.append(partial)
  return [counting.sum_counts(p) for p in partials]


def _at_offset(predicate, offset, weight):
  return predicate(weight, offset)
