"""From seconds of a step to hours, chip-hours and dollars of a run, computed by hand."""

import pytest

from maxtext_sparse.preflight.pace import Pace, RunCost, total

PACE = Pace(dense=0.5, mask=0.001, event=0.1, tokens_per_step=64_000, num_chips=64)


def test_a_sparse_run_pays_for_the_mask_in_each_step_and_for_each_event():
  cost = PACE.cost(10_000, 50, price=2.0)
  assert cost.hours == pytest.approx((5_010 + 5) / 3600)
  assert cost.chip_hours == pytest.approx(64 * cost.hours)
  assert cost.dollars == pytest.approx(2 * cost.chip_hours)


def test_a_dense_run_pays_for_its_steps_alone():
  assert PACE.cost(7200, None) == RunCost(1.0, 64.0, None)


def test_the_cost_of_sparsity_is_a_mean_over_a_period():
  assert PACE.amortised(100) == pytest.approx(0.502)
  assert PACE.overhead(100) == pytest.approx(0.004)


def test_tokens_a_second_are_those_of_one_chip():
  assert PACE.tokens_per_second_per_chip(PACE.dense) == 2_000


def test_costs_add_up():
  assert total([RunCost(1, 8, 2.0), RunCost(2, 16, 4.0)]) == RunCost(3, 24, 6.0)
  assert total([RunCost(1, 8)]).dollars is None


def test_a_cost_is_told_in_hours_and_dollars():
  assert RunCost(1.5, 96.0, 115.2).describe() == "1.5 hours, 96 chip-hours, $115"
  assert RunCost(0.5, 2.0).describe() == "0.5 hours, 2 chip-hours"
