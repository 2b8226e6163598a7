"""Every combination of scope, structure, score and floor works or is refused."""

import itertools

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.rules import Block, check_rule, NOfM, PruningRule, SCOPES
from tests.pruning.sorting_reference import GRADIENT_SCORE
from tests.pruning.test_event import draw, keep_masks, reference_masks

pytestmark = pytest.mark.usefixtures("strict_promotion")

STRUCTURES = (None, NOfM(2, 4), NOfM(1, 2), Block(2, 2))
SCORES = ("magnitude", "magnitude_rms", "random", GRADIENT_SCORE)
EVERY_RULE = [
  PruningRule(0.5, scope, structure, score, min_matrix_density=floor)
  for scope, structure, score, floor in itertools.product(SCOPES, STRUCTURES, SCORES, (0.0, 0.3))
]


def why_refused(rule: PruningRule) -> str | None:
  """Part of the message for a rule whose parts contradict each other."""
  if isinstance(rule.structure, NOfM) and rule.scope == "erk":
    return "gives every matrix one density"
  if rule.min_matrix_density and rule.structure is not None:
    return "works without a structure"
  if rule.min_matrix_density and rule.scope != "global":
    return "sets every matrix's density itself"
  return None


ACCEPTED = [rule for rule in EVERY_RULE if why_refused(rule) is None]


def test_contradictions_are_refused_and_nothing_else_is():
  for rule in EVERY_RULE:
    expected = why_refused(rule)
    if expected is None:
      check_rule(rule)
    else:
      with pytest.raises(ConfigError, match=expected):
        check_rule(rule)
  assert (len(EVERY_RULE), len(ACCEPTED)) == (96, 44)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ACCEPTED, ids=PruningRule.describe)
def test_every_other_combination_keeps_what_a_sort_keeps(rule):
  # Norms and scales are rounded in another way than numpy's, so that neighbours may change places.
  tolerance = 2 * (rule.structure.size if isinstance(rule.structure, Block) else 1)
  is_rounded = isinstance(rule.structure, Block) or rule.score == "magnitude_rms"
  for seed, event_index in itertools.product(range(4), (0, 1)):
    weights, gradients = draw("normal", seed), draw("normal", seed + 100)
    ours = keep_masks(rule, weights, gradients, step=(2, 4)[event_index])
    reference = reference_masks(rule, weights, gradients, event_index)
    assert sum(m.sum() for m in ours.values()) == sum(m.sum() for m in reference.values())
    assert sum((ours[path] != reference[path]).sum() for path in ours) <= (tolerance if is_rounded else 0)
