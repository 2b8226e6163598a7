"""The cut: the key of the last weight that survives, found by counting. No gather, no sort, no concatenation.

Each weight has a composite key, compared lexicographically:

  (bits of its score as float32, a bijective hash of the weight's global index)

The hash breaks ties the same way on every mesh, spread over the matrix instead of running through it from one corner.
The cut is the largest composite key that at least k weights reach: `search` finds its score, then, only where more than k
weights have that score, its hash. A pass reads the weights once; a few numbers for each contest move between devices.

Example: magnitudes 3, 2, 2, 1 and k = 2. Magnitude 2 is reached by three weights, one too many, and beyond it there is
one. So of the two tied weights k - 1 = 1 survives, the one with the larger hash.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from maxtext_sparse.pruning import counting, keys, matrices, search
from maxtext_sparse.pruning.counting import Count
from maxtext_sparse.pruning.keys import HIGHEST, INFINITY, LOWEST, SMALLEST_NORMAL
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.pruning.search import Bracket


class Cut(NamedTuple):
  """The key of the last weight that survives; int32 [number of contests]. (0, LOWEST) keeps every live weight."""

  score: jax.Array
  tiebreak: jax.Array

  @property
  def threshold(self) -> jax.Array:
    """A score that all surviving weights reach and no other, up to ties; float32."""
    return lax.bitcast_convert_type(self.score, jnp.float32)


class Ranking(NamedTuple):
  """The keys of one array, computed anew in each pass so that they need no memory.

  Attributes:
    parameter: shape and stack axes of the keys.
    offset: global index of the first key, for the hash; an int, or a uint32 scalar modulo 2^32.
    arrays: what the keys are computed from.
    key: from `arrays` to int32 keys of the parameter's shape; 0 is dead, and loses to all others.
    unused_bits: low bits that are zero in every key; 16 for magnitudes of bfloat16.
  """

  parameter: Parameter
  offset: int | jax.Array
  arrays: tuple[jax.Array, ...]
  key: Callable[..., jax.Array]
  unused_bits: int = 0

  def keys(self) -> jax.Array:
    return self.key(*self.arrays)


class Contest(NamedTuple):
  """Arrays whose weights are ranked: all against each other, or each matrix for itself.

  Attributes:
    rankings: the arrays.
    is_per_matrix: whether each matrix is a contest of its own.
    num_keep: how many keys survive; a Count [1], or [number of matrices] in the order of the arrays.
  """

  rankings: tuple[Ranking, ...]
  is_per_matrix: bool
  num_keep: Count

  @property
  def size(self) -> int:
    return sum(r.parameter.num_matrices for r in self.rankings) if self.is_per_matrix else 1


def magnitude_ranking(weight: jax.Array, parameter: Parameter, offset: int) -> Ranking:
  """Ranks an array by |w|."""
  # float32 has 23 bits of mantissa and bfloat16 has 7, so 16 bits of a widened bfloat16 are always zero.
  unused = 23 - min(jnp.finfo(weight.dtype).nmant, 23)
  return Ranking(parameter, offset, (weight,), keys.magnitude_key, unused)


def no_cut(size: int = 1) -> Cut:
  """Keeps every weight that is not zero."""
  return Cut(jnp.zeros(size, jnp.int32), jnp.full(size, LOWEST))


def reaches(ranks: jax.Array, cut: Cut, tiebreak: jax.Array) -> jax.Array:
  """bool, True where a key survives the cut; never True for key 0. The cut's arrays broadcast against the keys."""
  return ((ranks > cut.score) | ((ranks == cut.score) & (tiebreak >= cut.tiebreak))) & (ranks > 0)


def keep_mask(ranking: Ranking, cut: Cut) -> jax.Array:
  """bool, True where the array's weights survive; `cut` as `slice_cut` gives it."""
  return reaches(ranking.keys(), cut, keys.tiebreak_key(ranking.parameter.shape, ranking.offset))


def slice_cut(cut: Cut, contest: Contest, index: int) -> Cut:
  """The part of a contest's cut that array `index` needs, shaped to broadcast against it."""
  if not contest.is_per_matrix:
    return Cut(*(part[0] for part in cut))
  sizes = [ranking.parameter.num_matrices for ranking in contest.rankings]
  begin = sum(sizes[:index])
  parameter = contest.rankings[index].parameter
  return Cut(*(matrices.spread(part[begin : begin + sizes[index]], parameter) for part in cut))


def find_cuts(contests: Sequence[Contest]) -> list[Cut]:
  """The cut of each contest, all in one search.

  Returns:
    One Cut for each contest; `no_cut` where it has no more live keys than it may keep, and for all of them where a weight
    of any is not finite.
  """
  # From here on every count is one vector over all contests: first those of contests[0], then those of contests[1], ...
  num_keep = counting.concatenate([contest.num_keep for contest in contests])
  live, nonfinite = _count(contests, lambda ranking, ranks, index: [ranks > 0, ranks >= INFINITY])
  # NaN and infinity have the largest keys. One of them anywhere stops the event: no weight is cut, and the run ends.
  is_finite = ~jnp.any(counting.at_least(nonfinite, counting.split_count(1)))
  is_needed = ~counting.at_least(num_keep, live) & is_finite
  size = sum(contest.size for contest in contests)
  # `cond` skips the search where no contest needs it. A contest that needs none beside others that do is searched too,
  # and its answer is replaced below.
  found = lax.cond(jnp.any(is_needed), lambda: _search(contests, num_keep, live), lambda: no_cut(size))
  found = Cut(jnp.where(is_needed, found.score, 0), jnp.where(is_needed, found.tiebreak, LOWEST))
  ends = np.cumsum([contest.size for contest in contests])
  return [Cut(*(part[end - contest.size : end] for part in found)) for contest, end in zip(contests, ends)]


def _search(contests: Sequence[Contest], num_keep: Count, live: Count) -> Cut:
  """Scores first, then hashes among those whose score is the cut's."""
  # The search runs on keys shifted right by their unused bits: half as many bits for bfloat16, so half as many passes.
  shift = jnp.asarray(_shifts(contests))
  none = Count(jnp.zeros_like(live.high), jnp.zeros_like(live.low))
  # Live weights have keys from the smallest normal number to just below infinity. All live weights reach the lower end,
  # and none is beyond the upper end.
  finite = Bracket(SMALLEST_NORMAL >> shift, (INFINITY >> shift) - 1, live, none)

  def count_scores(candidates: Sequence[jax.Array]) -> list[Count]:
    fenced, candidates = _fence(contests, candidates)
    bounds = [candidate << shift for candidate in candidates]
    return _count(fenced, lambda ranking, ranks, index: [ranks >= index(bound) for bound in bounds])

  with jax.named_scope("score_passes"):
    found = search.narrow(count_scores, num_keep, finite)
  score = found.low << shift

  def count_hashes(candidates: Sequence[jax.Array]) -> list[Count]:
    fenced, candidates = _fence(contests, candidates)

    def hits(ranking: Ranking, ranks: jax.Array, index: _Index) -> list[jax.Array]:
      # Among the tied keys alone; the others reach no hash beyond the lowest.
      hashes = keys.tiebreak_key(ranking.parameter.shape, ranking.offset)
      tied = jnp.where(ranks == index(score), hashes, LOWEST)
      return [tied >= index(candidate) for candidate in candidates]

    return _count(fenced, hits)

  def break_ties() -> jax.Array:
    # Of the weights at the cut's score, `num_keep_tied` survive. Example: k = 2, three weights reach the score and one is
    # beyond it. Then two are tied and 2 - 1 = 1 of them survives.
    num_tied = counting.subtract(found.reached, found.beyond)
    num_keep_tied = counting.subtract(num_keep, found.beyond)
    # Where the score alone is exact, the lowest hash is the answer already.
    last = jnp.where(counting.at_least(num_keep, found.reached), LOWEST, HIGHEST)
    tied = Bracket(jnp.full_like(last, LOWEST), last, num_tied, none)
    with jax.named_scope("tie_passes"):
      return search.narrow(count_hashes, num_keep_tied, tied).low

  # The second search is rare with float32 weights, and the rule with bfloat16, where thousands of weights are equal.
  is_exact = jnp.all(counting.at_least(num_keep, found.reached))
  return Cut(score, lax.cond(is_exact, lambda: jnp.full_like(score, LOWEST), break_ties))


def _fence(contests: Sequence[Contest], candidates: Sequence[jax.Array]) -> tuple[list[Contest], list[jax.Array]]:
  """The same arrays, tied to the candidates of this pass.

  Without it XLA computes what does not depend on the pass once before the loop and stores it: 4 bytes a weight for the
  keys, and as many for the hashes.
  """
  offsets = [[jnp.uint32(r.offset % 2**32) for r in contest.rankings] for contest in contests]
  arrays = [[r.arrays for r in contest.rankings] for contest in contests]
  arrays, offsets, fenced = lax.optimization_barrier((arrays, offsets, list(candidates)))
  tied = [
    contest._replace(rankings=tuple(r._replace(arrays=a, offset=o) for r, a, o in zip(contest.rankings, *parts)))
    for contest, *parts in zip(contests, arrays, offsets)
  ]
  return tied, fenced


def _shifts(contests: Sequence[Contest]) -> npt.NDArray[np.int32]:
  """For each contest, the low bits that are zero in all its keys, which the search need not look at."""
  shifts = [min(ranking.unused_bits for ranking in contest.rankings) for contest in contests]
  return np.repeat(np.asarray(shifts, np.int32), [contest.size for contest in contests])


_Index = Callable[[jax.Array], jax.Array]


def _count(contests: Sequence[Contest], hits: Callable[[Ranking, jax.Array, _Index], list[jax.Array]]) -> list[Count]:
  """How many keys of each contest hit, in one read of the weights.

  Args:
    contests: the contests.
    hits: from a ranking, its keys and a function that brings a vector over contests to its array, to bool arrays.

  Returns:
    For each bool array, a Count [number of contests].
  """
  # `begin` is where a contest's entries begin in the vectors over all contests.
  found: list[list[Count]] = []
  begin = 0
  for contest in contests:
    found.append(_count_contest(contest, hits, begin))
    begin += contest.size
  return [counting.concatenate(counts) for counts in zip(*found)]


def _count_contest(contest: Contest, hits: Callable[..., list[jax.Array]], begin: int) -> list[Count]:
  per_array: list[list[Any]] = []
  for ranking in contest.rankings:
    size = ranking.parameter.num_matrices
    index = functools.partial(_index, contest, ranking.parameter, begin)
    bools = hits(ranking, ranking.keys(), index)
    if contest.is_per_matrix:
      per_array.append(matrices.count_each(bools, ranking.parameter))
      begin += size
    else:
      per_array.append(counting.count_true(bools))
  # Each matrix is a contest of its own, or all arrays add up to one.
  join = counting.concatenate if contest.is_per_matrix else counting.sum_counts
  return [join(list(counts)) for counts in zip(*per_array)]


def _index(contest: Contest, parameter: Parameter, begin: int, values: jax.Array) -> jax.Array:
  """A vector's entries that belong to an array, shaped to broadcast against it."""
  if not contest.is_per_matrix:
    return values[begin]
  return matrices.spread(values[begin : begin + parameter.num_matrices], parameter)
