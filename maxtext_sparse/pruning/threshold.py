"""The exact k-th largest magnitude over many arrays, by counting: no gather, no sort, no concatenation.

Each weight has a composite key, compared lexicographically:

  (magnitude bits of |w| as float32, a bijective hash of the weight's global index)

The bits of a non-negative float order like the float. The hash breaks ties the same way on every mesh, spread over the
matrix instead of running through it from one corner. The cut is the largest key that at least k weights reach: `search`
finds its magnitude, then, only where more than k weights have that magnitude, its hash. A pass reads the weights once
and moves a few scalars between devices.
"""

from collections.abc import Sequence
import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from maxtext_sparse.pruning import counting, search
from maxtext_sparse.pruning.counting import Count
from maxtext_sparse.pruning.search import Bracket

_LOWEST = np.int32(-(2**31))
_HIGHEST = np.int32(2**31 - 1)
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
  bits = _magnitude_bits(weight)
  return jnp.where(bits < _SMALLEST_NORMAL, jnp.int32(0), bits)


def _magnitude_bits(weight: jax.Array) -> jax.Array:
  return lax.bitcast_convert_type(jnp.abs(weight.astype(jnp.float32)), jnp.int32)


def is_zero(weight: jax.Array) -> jax.Array:
  """Whether a weight counts as pruned: zero of either sign or subnormal. NaN is not zero."""
  return magnitude_key(weight) == 0


def is_nonfinite(weight: jax.Array) -> jax.Array:
  """Whether a weight is NaN or infinite."""
  return magnitude_key(weight) >= _INFINITY


def tiebreak_key(shape: Sequence[int], offset: int | jax.Array) -> jax.Array:
  """int32 hash of each element's global index, offset + its row-major index; equal on every mesh.

  The finaliser of MurmurHash3 is a bijection of 32-bit integers: no two keys are equal up to 2^32 weights, and beyond
  that at most ceil(N / 2^32) weights share one.
  """
  first = jnp.uint32(offset % 2**32) if isinstance(offset, int) else offset
  index = jnp.full(shape, first)
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
  counts = _count(weights, index_offsets(weights), [lambda w, _: ~is_zero(w), lambda w, _: is_nonfinite(w)])
  nonzero, nonfinite = counts
  is_needed = ~counting.at_least(num_keep, nonzero) & ~counting.at_least(nonfinite, counting.split_count(1))
  return lax.cond(is_needed, lambda: _search(weights, num_keep, nonzero), no_cut)


def _search(weights: Sequence[jax.Array], num_keep: Count, nonzero: Count) -> Cut:
  shift = _unused_bits(weights)
  finite = Bracket(
    jnp.int32(_SMALLEST_NORMAL >> shift), jnp.int32((_INFINITY >> shift) - 1), nonzero, counting.split_count(0)
  )
  reaches = lambda w, _, key: _magnitude_bits(w) >= key << shift
  found = search.narrow(functools.partial(_count_reaching, weights, reaches), num_keep, finite)
  magnitude = found.low << shift

  def break_ties():
    # Among the tied weights alone; the others reach no key beyond the lowest.
    def reaches(w, offset, key):
      return jnp.where(_magnitude_bits(w) == magnitude, tiebreak_key(w.shape, offset), jnp.int32(_LOWEST)) >= key

    num_tied = counting.subtract(found.reached, found.beyond)
    tied = Bracket(jnp.int32(_LOWEST), jnp.int32(_HIGHEST), num_tied, counting.split_count(0))
    num_keep_tied = counting.subtract(num_keep, found.beyond)
    return search.narrow(functools.partial(_count_reaching, weights, reaches), num_keep_tied, tied).low

  is_exact = counting.at_least(num_keep, found.reached)
  return Cut(magnitude, lax.cond(is_exact, lambda: jnp.int32(_LOWEST), break_ties))


def _unused_bits(weights: Sequence[jax.Array]) -> int:
  """Low bits of a float32 that are zero in every weight: 16 where all are bfloat16."""
  return 23 - max(min(jnp.finfo(w.dtype).nmant, 23) for w in weights)


def _count_reaching(weights, reaches, keys: Sequence[jax.Array]) -> list[Count]:
  offsets = [jnp.uint32(offset % 2**32) for offset in index_offsets(weights)]
  # Tied to the pass, or XLA computes what does not depend on it once before the loop and stores it: 4 bytes a weight
  # for the magnitudes, and as many for the hash.
  fenced, offsets, keys = lax.optimization_barrier((list(weights), offsets, list(keys)))
  return _count(fenced, offsets, [functools.partial(_reaches_key, reaches, key) for key in keys])


def _reaches_key(reaches, key, weight, offset):
  return reaches(weight, offset, key)


def _count(weights, offsets, predicates) -> list[Count]:
  """One Count per predicate `(weight, offset) -> bool array`, over all weights, in one read of them."""
  partials: list[list[jax.Array]] = [[] for _ in predicates]
  for weight, offset in zip(weights, offsets):
    bound = [functools.partial(_at_offset, predicate, offset) for predicate in predicates]
    for sink, partial in zip(partials, counting.count_where(bound, weight)):
      sink.append(partial)
  return [counting.sum_counts(p) for p in partials]


def _at_offset(predicate, offset, weight):
  return predicate(weight, offset)
