"""From tokens and FLOPs to steps: the longest run that the budget pays for."""

import pytest

from maxtext_sparse.config import parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.budget import steps_for_flops, steps_for_tokens
from maxtext_sparse.plan.cost import make_plan

PRUNABLE, BATCH = 137_822_208, 2_097_152


def test_tokens_pay_for_whole_steps():
  assert steps_for_tokens(33.5e9, BATCH) == 15974
  assert steps_for_tokens(BATCH, BATCH) == 1
  with pytest.raises(ConfigError, match=r"less than one step of 2097152 tokens"):
    steps_for_tokens(BATCH - 1, BATCH)
  with pytest.raises(ConfigError, match="give --batch or a CONFIG"):
    steps_for_tokens(1e9, None)


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("flops", [3.3e17, 1e19, 4.5e20])
def test_flops_pay_for_the_longest_run_within_them(sparsity, flops):
  keys = parse_keys({"sparsity": sparsity})
  steps = steps_for_flops(flops, keys, PRUNABLE, BATCH)
  cost = lambda steps: make_plan(keys, steps, PRUNABLE, BATCH).effective_flops
  assert cost(steps) <= flops < cost(steps + 1)


def test_the_cost_of_a_run_is_the_budget_that_buys_it():
  keys = parse_keys({"sparsity": 0.8})
  flops = make_plan(keys, 16000, PRUNABLE, BATCH).effective_flops
  assert steps_for_flops(flops, keys, PRUNABLE, BATCH) == 16000


def test_a_budget_below_one_event_names_the_smallest():
  keys = parse_keys({"sparsity": 0.5})
  with pytest.raises(ConfigError, match=r"--flops=1e\+12: too small .* needs at least ([0-9.e+]+) for 209 steps"):
    steps_for_flops(1e12, keys, PRUNABLE, BATCH)
  least = make_plan(keys, 209, PRUNABLE, BATCH).effective_flops
  assert steps_for_flops(least, keys, PRUNABLE, BATCH) == 209


@pytest.mark.parametrize(("num_prunable", "batch", "option"), [(None, BATCH, "--prunable"), (PRUNABLE, None, "--batch")])
def test_flops_need_model_and_batch(num_prunable, batch, option):
  with pytest.raises(ConfigError, match=f"give {option}, or a CONFIG"):
    steps_for_flops(1e19, parse_keys({"sparsity": 0.5}), num_prunable, batch)


def test_a_budget_for_an_endless_run_is_refused_with_one_that_works():
  with pytest.raises(ConfigError, match=r"--tokens=1e\+17: 1000000000000 steps .* must be at most 1e\+13"):
    steps_for_tokens(1e17, 100_000)
  assert steps_for_tokens(1e13, 100_000) == 100_000_000
  keys = parse_keys({"sparsity": 0.5, "gmp_pruning_frequency": 1000})
  with pytest.raises(ConfigError, match=r"--flops=1e\+30: pays for more than 100000000 steps, must be at most "):
    steps_for_flops(1e30, keys, PRUNABLE, BATCH)
