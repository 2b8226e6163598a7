"""The largest integer key that at least k weights reach, by counting alone, for many contests at once.

The answer lies in a bracket [low, last]. A pass counts, in one read of the weights, how many reach each of seven keys:

  the three quarters of the bracket, so that it shrinks by four or more whatever the weights are;
  four around the key that the counts at both ends predict, 1/512 and 1/32 of the bracket apart, so that it shrinks by
  up to 170 where keys are spread evenly, which within an octave of magnitudes they nearly are.

Example: keys 0 to 9,999 spread evenly, k = 2,500. With low = 0, reached by 10,000, and last = 9,999, beyond which there
is none, the prediction is 9,999 * (10,000 - 2,500) / 10,000 = 7,499; counts at keys around it leave a bracket of 60.

17 passes are the worst case for 32 bits, seven to ten the rule for weights as they are trained. Contests run side by
side: all bounds are vectors, and a pass serves every contest. A thousand matrices take the passes of the slowest one.
"""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from maxtext_sparse.pruning import counting
from maxtext_sparse.pruning.counting import Count

# The bracket is cut into this many cells. Around the predicted cell p, four candidates are tried: p - 16, p - 1, p + 2
# and p + 17. If the answer is between p - 1 and p + 2, three cells remain: the bracket is 512 / 3 = 170 times smaller.
_NUM_CELLS = np.uint32(512)
_CELLS_AROUND_PREDICTION = (-16, -1, 2, 17)


class Bracket(NamedTuple):
  """Bounds of the answers, int32, and how many weights reach them; scalars or vectors with an entry for each contest.

  Attributes:
    low: a key that at least k weights reach.
    last: no key beyond is reached by k weights.
    reached: how many reach `low`.
    beyond: how many, fewer than k, reach `last` + 1.
  """

  low: jax.Array
  last: jax.Array
  reached: Count
  beyond: Count


def narrow(count_reaching: Callable[[Sequence[jax.Array]], list[Count]], num_keep: Count, bracket: Bracket) -> Bracket:
  """The bracket whose `low` is the largest key that `num_keep` weights reach; or any key that exactly so many reach.

  Invariant of each pass: low is reached by at least k weights, last + 1 by fewer.

  Args:
    count_reaching: for each of some keys, how many weights reach it; must fall as the key grows.
    num_keep: k. A contest whose k is above its `bracket.reached` keeps its `low`.
    bracket: where to look.
  """

  # A contest is finished in two ways: only one key is left, or exactly k weights reach `low`. In the second case any key
  # up to the next weight gives the same survivors, and the search need not find the largest.
  def is_open(bracket: Bracket) -> jax.Array:
    return jnp.any((bracket.low != bracket.last) & ~counting.at_least(num_keep, bracket.reached))

  def search_pass(bracket: Bracket) -> Bracket:
    keys = _candidates(bracket, num_keep)
    # All seven counts come from one read. They are then used one after the other, each on the bracket that the last one
    # left, so their order does not matter.
    for key, count in zip(keys, count_reaching(keys)):
      bracket = _narrowed(bracket, key, count, counting.at_least(count, num_keep))
    return bracket

  return lax.while_loop(is_open, search_pass, bracket)


def _candidates(bracket: Bracket, num_keep: Count) -> list[jax.Array]:
  """Keys in (low, last], in no order; some may be equal."""
  # Up to 2^32 - 1, where the int32 difference wraps.
  span = lax.bitcast_convert_type(bracket.last - bracket.low, jnp.uint32)
  # span * j / 4, in two parts because span * 3 would not fit into 32 bits. Example: span 10, j 3 gives 6 + 1 = 7.
  quarters = [span // 4 * j + span % 4 * j // 4 for j in (np.uint32(1), np.uint32(2), np.uint32(3))]
  # A bracket of fewer than 512 keys has cells of one key.
  cell = jnp.maximum(span // _NUM_CELLS, np.uint32(1))
  reached, keep, beyond = (counting.as_float(c) for c in (bracket.reached, num_keep, bracket.beyond))
  num_cells = (span // cell).astype(jnp.int32)
  # A contest without any weight has 0 / 0 here; its bracket is closed and its candidates count nothing.
  predicted = (num_cells.astype(jnp.float32) * (reached - keep) / jnp.maximum(reached - beyond, 1.0)).astype(jnp.int32)
  near = [jnp.clip(predicted + np.int32(j), 0, num_cells).astype(jnp.uint32) * cell for j in _CELLS_AROUND_PREDICTION]
  # `low` itself needs no test, because enough weights reach it: the smallest offset is 1.
  offsets = [jnp.clip(offset, np.uint32(1), span) for offset in quarters + near]
  return [bracket.low + lax.bitcast_convert_type(offset, jnp.int32) for offset in offsets]


def _narrowed(bracket: Bracket, key: jax.Array, count: Count, is_enough: jax.Array) -> Bracket:
  """The part of the bracket that one more count leaves; keys outside it change nothing."""
  # Enough weights reach `key`, so the answer is `key` or above. Otherwise it is below `key`.
  raises = is_enough & (key > bracket.low)
  lowers = ~is_enough & (key <= bracket.last) & (key > bracket.low)
  choose = lambda condition, new, old: jax.tree.map(functools.partial(jnp.where, condition), new, old)
  return Bracket(
    low=jnp.where(raises, key, bracket.low),
    last=jnp.where(lowers, key - 1, bracket.last),
    reached=choose(raises, count, bracket.reached),
    beyond=choose(lowers, count, bracket.beyond),
  )
