"""What the tests and benchmarks of pruning share: one global contest by magnitude."""

from collections.abc import Sequence

import jax

from maxtext_sparse.pruning.counting import Count
from maxtext_sparse.pruning.matrices import index_offsets
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.pruning.threshold import Contest, Cut, find_cuts, keep_mask, magnitude_ranking, slice_cut


def magnitude_contest(weights: Sequence[jax.Array], num_keep: Count) -> Contest:
  """All weights against each other by magnitude."""
  parameters = [Parameter(str(i), w.shape) for i, w in enumerate(weights)]
  offsets = index_offsets(parameters)
  rankings = tuple(magnitude_ranking(w, p, offsets[p.path]) for w, p in zip(weights, parameters))
  return Contest(rankings, False, Count(num_keep.high.reshape(1), num_keep.low.reshape(1)))


def find_cut(weights: Sequence[jax.Array], num_keep: Count) -> Cut:
  """The cut that leaves `num_keep` weights."""
  return find_cuts([magnitude_contest(weights, num_keep)])[0]


def find_masks(weights: Sequence[jax.Array], num_keep: Count) -> tuple[Cut, list[jax.Array]]:
  """The cut and the masks that it makes."""
  contest = magnitude_contest(weights, num_keep)
  cut = find_cuts([contest])[0]
  return cut, [keep_mask(ranking, slice_cut(cut, contest, i)) for i, ranking in enumerate(contest.rankings)]
