"""Hours and price of a planned run, against sums over its steps."""

import types

import pytest

from maxtext_sparse.config import parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.cost import make_plan
from maxtext_sparse.plan.prices import price_run
from maxtext_sparse.plan.request import PlannedRun
from maxtext_sparse.preflight.estimate import DEFAULT_UTILISATION

NUM_PRUNABLE, TOKENS = 1_000_000_000, 2**20
PLAN = make_plan(parse_keys({"sparsity": 0.8}), 10_000, NUM_PRUNABLE, TOKENS)
# 64 chips of 459e12 FLOPs and 2765e9 bytes a second.
DENSE = 6e9 * TOKENS / 64 / (DEFAULT_UTILISATION * 459e12)
READ = 4 * NUM_PRUNABLE / 64 / 2765e9


def priced(**changes):
  model = types.SimpleNamespace(flops_per_token=6e9)
  return price_run(PlannedRun(PLAN, False, model=model), "v5p-128", changes.get("mfu"), changes.get("price"))


def test_a_run_takes_its_steps_masks_and_events():
  events = len(PLAN.schedule.event_steps)
  assert priced().cost.hours == pytest.approx((10_000 * (DENSE + 2 * READ) + events * 11 * READ) / 3600)


def test_phases_add_up_and_events_count_in_theirs():
  run = priced(price=1.0)
  assert sum(cost.chip_hours for cost in run.phases.values()) == pytest.approx(run.cost.dollars)
  start, end = PLAN.schedule.start, PLAN.schedule.end
  assert run.phases["dense"].hours == pytest.approx(start * (DENSE + 2 * READ) / 3600)
  # The last event is at the step that begins the recovery.
  assert run.phases["recovery"].hours == pytest.approx(((10_000 - end) * (DENSE + 2 * READ) + 11 * READ) / 3600)


def test_a_measured_utilisation_scales_the_step_alone():
  assert priced(mfu=0.8).pace.dense == pytest.approx(DENSE / 2)
  assert priced(mfu=0.8).pace.event == pytest.approx(11 * READ)


def test_without_a_model_there_is_no_price():
  with pytest.raises(ConfigError, match="give a CONFIG"):
    price_run(PlannedRun(PLAN, True), "v5p-128", None, None)
