"""One pruning event: from weights and a plan to what survives.

What an event decides is carried in an `Outcome` of a fixed form, so that `lax.cond` can choose between an event and none:

  cuts    for each group, the key of the last survivor. Masks follow from it weight by weight, in the optimizer update.
  scales  1 / rms of each matrix, for groups that rank by magnitude_rms.
  masks   bool arrays, only for groups whose survivors do not follow from a cut alone: structures and users' scores.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from maxtext_sparse.pruning import counting, keys, matrices, meshes, scores, structures, threshold
from maxtext_sparse.pruning.counting import Count
from maxtext_sparse.pruning.groups import Group, PruningPlan
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.pruning.quotas import floor_counts
from maxtext_sparse.pruning.threshold import Contest, Cut, Ranking
from maxtext_sparse.rules import Block, is_function_name, NOfM

Arrays = Mapping[str, jax.Array]


class Outcome(NamedTuple):
  """What survives, by group and by path; see the module's docstring."""

  cuts: tuple[Cut, ...]
  scales: dict[str, jax.Array]
  masks: dict[str, jax.Array]
  threshold: jax.Array


def run_event(plan: PruningPlan, weights: Arrays, gradients: Arrays, step: jax.Array) -> Outcome:
  """The outcome of this step: of its event, or where it has none, that all live weights survive.

  Args:
    plan: what is pruned when.
    weights: prunable arrays by path, before the update of this step.
    gradients: of the same paths, for scores that ask for them.
    step: int32 scalar.
  """

  def out_specs() -> Outcome:
    specs: Outcome = jax.tree.map(lambda _: jax.P(), jax.eval_shape(functools.partial(_no_event, plan), weights))
    return specs._replace(masks={path: jax.typeof(weights[path]).sharding.spec for path in specs.masks})

  outcome: Outcome = meshes.by_partitioner(functools.partial(_run_event, plan), out_specs, weights, gradients, step)
  return outcome


def _run_event(plan: PruningPlan, weights: Arrays, gradients: Arrays, step: jax.Array) -> Outcome:
  events = plan.schedule.event_steps
  if not events:
    return _no_event(plan, weights)
  steps = jnp.asarray(events, jnp.int32)
  # The last event at or before this step; only read where there is one at this step.
  index = jnp.maximum(jnp.sum(steps <= step, dtype=jnp.int32) - 1, 0)
  event = _Event(plan, weights, gradients, index)
  # The scopes named here and below are what `preflight` finds the cost of an event by.
  with jax.named_scope("pruning_event"):
    outcome: Outcome = lax.cond(jnp.any(steps == step), event.outcome, lambda: _no_event(plan, weights))
  return outcome


def survives(plan: PruningPlan, outcome: Outcome, path: str, weight: jax.Array) -> jax.Array:
  """bool of the weight's shape, True where it stays."""
  if path in outcome.masks:
    return outcome.masks[path]
  group, position = _find(plan, path)
  parameter = group.parameters[position]
  offset = matrices.index_offsets(plan.parameters)[path]
  ranking = _elementwise_ranking(group, parameter, weight, offset, outcome.scales.get(path))
  # Only shapes matter here, the counts are spent.
  no_count = Count(jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32))
  contest = Contest(tuple(ranking._replace(parameter=p) for p in group.parameters), has_cut_per_matrix(group), no_count)
  return threshold.keep_mask(ranking, threshold.slice_cut(outcome.cuts[plan.groups.index(group)], contest, position))


def needs_mask(group: Group) -> bool:
  """Whether survivors are decided together, in a bool array, instead of weight by weight."""
  return group.rule.structure is not None or is_function_name(group.rule.score)


def has_cut_per_matrix(group: Group) -> bool:
  """Whether each matrix has a cut of its own."""
  return group.rule.scope != "global" or group.rule.min_matrix_density > 0


def _find(plan: PruningPlan, path: str) -> tuple[Group, int]:
  return next((g, i) for g in plan.groups for i, p in enumerate(g.parameters) if p.path == path)


def _no_event(plan: PruningPlan, weights: Arrays) -> Outcome:
  sizes = [sum(p.num_matrices for p in g.parameters) if has_cut_per_matrix(g) else 1 for g in plan.groups]
  scaled = [p for g in plan.groups if g.rule.score == "magnitude_rms" and not needs_mask(g) for p in g.parameters]
  masked = [p for g in plan.groups if needs_mask(g) for p in g.parameters]
  return Outcome(
    cuts=tuple(threshold.no_cut(size) for size in sizes),
    scales={p.path: jnp.ones(p.num_matrices, jnp.float32) for p in scaled},
    masks={p.path: ~keys.is_zero(weights[p.path]) for p in masked},
    threshold=jnp.float32(0.0),
  )


def _elementwise_ranking(
  group: Group, parameter: Parameter, weight: jax.Array, offset: int, scale: jax.Array | None
) -> Ranking:
  """The ranking of an array by a score that needs nothing but the weight, its place, and its matrix's scale."""
  rule = group.rule
  if rule.score == "magnitude":
    return threshold.magnitude_ranking(weight, parameter, offset)
  if rule.score == "random":
    by_place = lambda w: keys.score_key(w, scores.random_score(w, offset, rule.seed))
    return Ranking(parameter, offset, (weight,), by_place)
  assert scale is not None
  by_rms = lambda w, s: keys.score_key(w, jnp.abs(w.astype(jnp.float32)) * matrices.spread(s, parameter))
  return Ranking(parameter, offset, (weight, scale), by_rms)


class _Event:
  """The computation of one event, traced once for all events of a run."""

  def __init__(self, plan: PruningPlan, weights: Arrays, gradients: Arrays, index: jax.Array):
    self._plan, self._weights, self._gradients, self._index = plan, weights, gradients, index
    self._offsets = matrices.index_offsets(plan.parameters)

  def outcome(self) -> Outcome:
    plan = self._plan
    # The order matters: scores need the scales, floors need the scores, and the contest leaves out what the floors keep.
    scales = {
      p.path: scores.inverse_rms(self._weights[p.path], p)
      for group in plan.groups
      if group.rule.score == "magnitude_rms"
      for p in group.parameters
    }
    ranked = [[self._ranking(group, p, scales) for p in group.parameters] for group in plan.groups]
    floors = self._floors(ranked)
    contests = [self._contest(group, rankings, floors) for group, rankings in zip(plan.groups, ranked)]
    cuts = threshold.find_cuts(contests)
    masks: dict[str, jax.Array] = {}
    for group, contest, cut in zip(plan.groups, contests, cuts):
      if needs_mask(group):
        masks |= self._masks(group, contest, cut)
    # `lax.cond` wants the same tree from both branches, so the keys of `scales` are those of `_no_event`.
    none = _no_event(plan, self._weights)
    return Outcome(
      cuts=tuple(self._final_cut(g, cut, floors) for g, cut in zip(plan.groups, cuts)),
      scales={path: scales[path] for path in none.scales},
      masks=masks,
      threshold=jnp.max(jnp.stack([jnp.max(cut.threshold) for cut in cuts])),
    )

  def _ranking(self, group: Group, parameter: Parameter, scales: Arrays) -> Ranking:
    """How single weights, or blocks, rank by the group's score."""
    weight, offset = self._weights[parameter.path], self._offsets[parameter.path]
    rule = group.rule
    if is_function_name(rule.score):
      score = scores.user_score(rule.score, weight, parameter, self._gradients[parameter.path])
      # Kept for the event, 4 bytes a weight: how long the function takes is not known.
      ranks = keys.score_key(weight, score)
      ranking = Ranking(parameter, offset, (ranks,), lambda r: r)
    else:
      ranking = _elementwise_ranking(group, parameter, weight, offset, scales.get(parameter.path))
    if isinstance(rule.structure, Block):
      score = lax.bitcast_convert_type(ranking.keys(), jnp.float32)
      ranks = structures.block_keys(weight, score, rule.structure, parameter)
      return Ranking(structures.block_parameter(rule.structure, parameter), offset, (ranks,), lambda r: r)
    return ranking

  def _floors(self, ranked: Sequence[Sequence[Ranking]]) -> dict[int, tuple[Contest, Cut]]:
    """By group, the contest of each matrix for its `min_matrix_density`, and its cut."""
    contests = {}
    for index, (group, rankings) in enumerate(zip(self._plan.groups, ranked)):
      if group.rule.min_matrix_density > 0:
        num_keep = _per_matrix(counting.split_counts(floor_counts(group.rule, group.parameters)), group.parameters)
        contests[index] = Contest(tuple(rankings), True, num_keep)
    cuts = threshold.find_cuts(list(contests.values())) if contests else []
    return {index: (contest, cut) for (index, contest), cut in zip(contests.items(), cuts)}

  def _contest(self, group: Group, rankings: Sequence[Ranking], floors: Mapping[int, tuple[Contest, Cut]]) -> Contest:
    """The weights that compete: all but the protected ones, which are taken off the number that survives."""
    index = self._plan.groups.index(group)
    kept = counting.split_counts(self._candidates(group))
    num_keep = jax.tree.map(lambda table: lax.dynamic_index_in_dim(table, self._index, keepdims=False), kept)
    rankings = tuple(rankings)
    if isinstance(group.rule.structure, NOfM):
      rankings = tuple(_without(r, self._protected(group, r)) for r in rankings)
    elif index in floors:
      floor, cut = floors[index]
      rankings = tuple(
        _without(r, threshold.keep_mask(r, threshold.slice_cut(cut, floor, i))) for i, r in enumerate(rankings)
      )
    if group.rule.scope == "global":
      return Contest(rankings, False, num_keep)
    return Contest(rankings, True, _per_matrix(num_keep, group.parameters))

  def _candidates(self, group: Group) -> npt.NDArray[np.int64]:
    """[event][array or 1]: how many of the keys that compete survive."""
    quotas = np.asarray(group.quotas, np.int64)
    sizes = np.asarray([p.size for p in group.parameters], np.int64)
    structure = group.rule.structure
    protected = np.zeros_like(sizes)
    # Example for 2:4 and 1,000 weights of which 600 shall live: each group of 4 protects its top 2, so 500 are protected.
    # The other 500 compete for the 100 places that are left.
    if isinstance(structure, Block):
      quotas = quotas // structure.size
    elif isinstance(structure, NOfM):
      protected = sizes * structure.n // structure.m
    elif group.rule.min_matrix_density > 0:
      protected = np.asarray(floor_counts(group.rule, group.parameters), np.int64)
    return quotas - (protected.sum(keepdims=True) if group.rule.scope == "global" else protected)

  def _protected(self, group: Group, ranking: Ranking) -> jax.Array:
    assert isinstance(group.rule.structure, NOfM)
    tiebreak = keys.tiebreak_key(ranking.parameter.shape, ranking.offset)
    return structures.protected(ranking.keys(), tiebreak, group.rule.structure, ranking.parameter)

  def _masks(self, group: Group, contest: Contest, cut: Cut) -> dict[str, jax.Array]:
    masks = {}
    for index, (parameter, ranking) in enumerate(zip(group.parameters, contest.rankings)):
      weight = self._weights[parameter.path]
      keep = threshold.keep_mask(ranking, threshold.slice_cut(cut, contest, index))
      if isinstance(group.rule.structure, Block):
        keep = structures.expand_blocks(keep, group.rule.structure, parameter)
      elif isinstance(group.rule.structure, NOfM) or group.rule.min_matrix_density > 0:
        keep |= ranking.arrays[-1]  # the protected ones, see _without
      masks[parameter.path] = keep & ~keys.is_zero(weight)
    return masks

  def _final_cut(self, group: Group, cut: Cut, floors: Mapping[int, tuple[Contest, Cut]]) -> Cut:
    """The cut that decides weight by weight: of a matrix with a floor, the lower of the common cut and its own."""
    index = self._plan.groups.index(group)
    if index not in floors:
      return cut
    # A weight survives if it beats either cut, hence the lower one. Cuts are ordered like keys: by score, then by hash.
    own = floors[index][1]
    is_lower = (own.score < cut.score) | ((own.score == cut.score) & (own.tiebreak < cut.tiebreak))
    return Cut(*(jnp.where(is_lower, mine, common) for mine, common in zip(own, cut)))


def _without(ranking: Ranking, protected: jax.Array) -> Ranking:
  """The ranking without some of its weights, which survive anyway. One that is not finite stays, so that it is seen."""

  def key(*arrays: jax.Array) -> jax.Array:
    ranks = ranking.key(*arrays[:-1])
    return jnp.where(arrays[-1] & (ranks < keys.INFINITY), jnp.int32(0), ranks)

  return ranking._replace(arrays=(*ranking.arrays, protected), key=key)


def _per_matrix(counts: Count, parameters: Sequence[Parameter]) -> Count:
  """[array] counts as [matrix]: an array's matrices share evenly, the first ones take what is left over."""
  shared = [_shared(Count(counts.high[i], counts.low[i]), p.num_matrices) for i, p in enumerate(parameters)]
  return counting.concatenate(shared)


def _shared(count: Count, num_matrices: int) -> Count:
  """A Count of scalars, divided: entry i is floor((count + M - 1 - i) / M), by long division in base 2^16."""
  size = jnp.uint32(num_matrices)
  high = count.high.astype(jnp.uint32)
  extra = size - jnp.uint32(1) - jnp.arange(num_matrices, dtype=jnp.uint32)
  assert num_matrices < 2**16, "more matrices in one array than the division is made for"
  # Example with 2^16 = 100 for short: 507 weights over 4 matrices is high 5, low 7. 5 = 1 * 4 + carry 1; the rest is
  # 107 = 26 * 4 + 3; so three matrices get 126 + 1 and the last one 126.
  quotient_high, carry = high // size, high % size
  # carry < 2^16 and low < 2^16, so this is below 2^32.
  rest = carry * jnp.uint32(2**16) + count.low.astype(jnp.uint32)
  low = rest // size + (rest % size + extra) // size
  total_high = quotient_high + (low >> jnp.uint32(16))
  return Count(total_high.astype(jnp.int32), (low & jnp.uint32(0xFFFF)).astype(jnp.int32))
