"""From tokens and FLOPs to steps: the longest run that the budget pays for."""

import pytest

from maxtext_sparse.config import parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.budget import parse_amount, parse_count, steps_for_flops, steps_for_tokens
from maxtext_sparse.plan.cost import make_plan

PRUNABLE, BATCH = 137_822_208, 2_097_152


@pytest.mark.parametrize(
  ("text", "amount"), [("2097152", 2097152), ("33.5e9", 33.5e9), ("33.5B", 33.5e9), ("0.5M", 5e5), ("1e20", 1e20)]
)
def test_amounts(text, amount):
  assert parse_amount(text, "tokens") == amount


@pytest.mark.parametrize("text", ["", "abc", "-5", "0", "1.2.3", "5X", "inf", "nan", "1e999"])
def test_amounts_that_are_none(text):
  with pytest.raises(ConfigError, match=f"--tokens={text}: must be a positive number"):
    parse_amount(text, "tokens")


def test_counts_are_whole():
  assert parse_count("138M", "prunable") == 138_000_000
  with pytest.raises(ConfigError, match=r"--batch=1.5: must be a whole number"):
    parse_count("1.5", "batch")


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
  with pytest.raises(ConfigError, match=f"give {option} or a CONFIG"):
    steps_for_flops(1e19, parse_keys({"sparsity": 0.5}), num_prunable, batch)
