"""kill -9 and resume under each scope, structure and score: the run ends as if nothing had happened."""

import pytest

from tests.faults.harness import LONG, saved_steps
from tests.faults.test_kill import assert_nothing_is_lost, kill_after_commit

pytestmark = pytest.mark.slow

GROUPS = "[{match: mlp, structure: '2:4'}, {match: logits_dense, sparsity: 0}, {match: query, scope: per_matrix}]"
RULES = {
  "per_matrix": {"pruning_scope": "per_matrix"},
  "erk": {"pruning_scope": "erk"},
  "floor": {"min_matrix_density": 0.1},
  "2:4": {"sparsity": 0.5, "pruning_structure": "2:4"},
  "1:4 per_matrix": {"sparsity": 0.75, "pruning_structure": "1:4", "pruning_scope": "per_matrix"},
  "block": {"pruning_structure": "block:8x8"},
  "rms": {"pruning_score": "magnitude_rms"},
  "random": {"pruning_score": "random", "pruning_seed": 5},
  "a score with gradients": {"pruning_score": "tests.hooks.test_rules:saliency"},
  "groups": {"prune_groups": GROUPS},
}


@pytest.mark.parametrize("rule", RULES)
def test_a_run_killed_at_an_event_resumes_bit_identical(nursery, out, settings, rule):
  """After the checkpoint of step 20, an event, and before the rows and the record that follow it."""
  keys, name = settings | RULES[rule], f"rule_{list(RULES).index(rule)}"
  whole = nursery.train(out, f"{name}_whole", **keys)
  assert len(whole.event_files()) == 15
  kill_after_commit(nursery.start(out, name, **keys), out, name, 20)
  saved = saved_steps(out, name)
  assert saved[-1] < LONG["steps"] - 1, "the run was over before it was killed"
  assert_nothing_is_lost(nursery.train(out, name, **keys), whole, saved[-1:])
