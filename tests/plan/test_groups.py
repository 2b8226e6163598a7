"""Plans of runs whose parameters follow different rules: exact sums over groups, from the plan that training follows."""

from pathlib import Path

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.request import plan_run, RunOptions

CONFIG = str(Path(__file__).parents[2] / "configs" / "models" / "58m.yml")
HEAD, ATTENTION, MLP = 512 * 32_000, 6 * 4 * 512 * 512, 6 * 3 * 512 * 2048
STEPS = "steps=1000"
GROUPS = "prune_groups=[{match: /mlp/, structure: '2:4'}, {match: logits_dense, sparsity: 0}]"


def plan(*keys: str):
  return plan_run([CONFIG, STEPS, "gmp_pruning_frequency=10", *keys], RunOptions(num_chips=1)).plan


def test_the_final_count_is_the_sum_over_the_groups():
  planned = plan("sparsity=0.75", GROUPS)
  assert planned.num_prunable == ATTENTION + MLP
  assert planned.schedule.kept[-1] == ATTENTION // 4 + MLP // 2


def test_the_shares_of_compute_are_those_of_the_mixture():
  planned = plan("sparsity=0.75", GROUPS)
  dense, pruning, recovery = planned.fractions()
  assert (dense, pruning, recovery) == pytest.approx((0.25, 0.5, 0.25), abs=0.01)


def test_every_matrix_of_an_expert_layer_has_its_own_count():
  planned = plan("sparsity=0.75", "pruning_scope=erk")
  assert planned.schedule.kept[-1] == (HEAD + ATTENTION + MLP) // 4


def test_a_budget_of_flops_is_met_with_groups():
  options = RunOptions(flops=1e15, num_chips=1)
  planned = plan_run([CONFIG, "gmp_pruning_frequency=10", "sparsity=0.75", GROUPS], options).plan
  assert 0.97e15 < planned.effective_flops <= 1e15


def test_groups_need_a_model():
  with pytest.raises(ConfigError, match=r"^prune_groups: its patterns match paths of parameters, give the CONFIG"):
    plan_run(["sparsity=0.75", STEPS, GROUPS], RunOptions())


def test_a_pattern_that_matches_nothing_is_refused():
  with pytest.raises(ConfigError, match=r"^prune_groups\[0\].match='mpl': matches none of the 8 prunable parameters"):
    plan("sparsity=0.5", "prune_groups=[{match: mpl, sparsity: 0.9}]")
