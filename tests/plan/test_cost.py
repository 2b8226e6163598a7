"""The planner's figures: the authors' own schedules, the paper's averages, and sums over the event list."""

import math

import pytest

from maxtext_sparse.config import parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.cost import checked_keys, make_plan


def report(steps=72200, num_prunable=None, tokens_per_step=None, **keys):
  return make_plan(parse_keys(keys), steps, num_prunable, tokens_per_step)


@pytest.mark.parametrize(("steps", "sparsity", "start", "end"), [(72200, 0.5, 12500, 47200), (26800, 0.6, 4100, 16600)])
def test_the_authors_configs(steps, sparsity, start, end):
  planned = report(steps, sparsity=sparsity).to_dict()
  assert (planned["gmp_start_step"], planned["gmp_end_step"]) == (start, end)
  assert planned["num_pruning_events"] == (end - start) // 100 + 1
  assert planned["final_density"] == 1 - sparsity


@pytest.mark.parametrize(("sparsity", "average"), [(0.2, 0.893), (0.4, 0.766), (0.6, 0.610), (0.8, 0.399)])
def test_the_papers_average_densities(sparsity, average):
  assert round(report(1_000_000, sparsity=sparsity).average_density, 3) == average


def test_json_has_the_keys_of_the_contract_and_no_others():
  assert list(report(sparsity=0.5).to_dict()) == [
    "gmp_start_step",
    "gmp_end_step",
    "num_pruning_events",
    "average_density",
    "final_density",
    "dense_fraction",
    "prune_fraction",
    "recovery_fraction",
    "effective_flops",
  ]


@pytest.mark.parametrize("shape", ["geometric", "cubic", "linear"])
@pytest.mark.parametrize("fraction_of", ["compute", "steps"])
def test_figures_are_sums_over_every_step(shape, fraction_of):
  planned = report(
    1000, 1001, 64, sparsity=0.8, pruning_schedule=shape, gmp_fraction_of=fraction_of, gmp_pruning_frequency=10
  )
  active = [planned.active(step) for step in range(1000)]
  assert active[0] == 1001 and active[-1] == 200
  assert planned.average_params == sum(active) / 1000
  assert planned.effective_flops == 6 * 64 * sum(active)
  assert planned.actual_flops == 6 * 64 * 1001 * 1000
  assert math.isclose(planned.average_density, sum(active) / 1001 / 1000, abs_tol=1e-3)


@pytest.mark.parametrize("shape", ["geometric", "cubic", "linear"])
def test_compute_shares_come_out_as_asked(shape):
  planned = report(100_000, sparsity=0.8, pruning_schedule=shape)
  assert planned.fractions() == pytest.approx((0.25, 0.5, 0.25), abs=2e-3)
  phases = planned.phases()
  assert [phase.compute_share for phase in phases] == list(planned.fractions())
  assert [phase.begin for phase in phases] + [100_000] == [0] + [phase.stop for phase in phases]


def test_step_shares_are_reported_where_they_were_asked_for():
  planned = report(10_000, sparsity=0.8, gmp_fraction_of="steps", gmp_dense_fraction=0.3, gmp_prune_fraction=0.4)
  assert planned.fractions() == (0.3, 0.4, 0.3)
  assert planned.phases()[0].compute_share > 0.3


def test_without_model_or_batch_there_are_no_flops():
  assert report(sparsity=0.5).to_dict()["effective_flops"] is None
  assert report(sparsity=0.5, num_prunable=10).effective_flops is None
  assert report(sparsity=0.5, tokens_per_step=10).average_params is None


def test_compression_and_overhead_at_80_percent():
  planned = report(1_000_000, sparsity=0.8)
  assert planned.compression_rate == pytest.approx(2.0, abs=0.01)  # the paper's "2x lossless compression"
  assert planned.overhead == pytest.approx(1 / 0.399, abs=0.01)
  assert planned.overhead < 1 / (1 - 0.8)


def test_one_shot_has_one_event_and_no_pruning_steps():
  planned = report(1000, sparsity=0.5, pruning_method="one-shot", gmp_dense_fraction=0.5)
  assert planned.to_dict()["num_pruning_events"] == 1
  assert planned.phases()[1].num_steps == 0


@pytest.mark.parametrize(
  ("keys", "message"),
  [
    ({"sparsity": 0.0}, "sparsity=0: a dense run"),
    ({"sparsity": 1.0}, "sparsity=1.0: must be less than 1"),
    ({"pruning_method": "hold"}, "pruning_method='hold'"),
    ({"sparsity": 0.5, "gmp_dense_fraction": 0.8}, "gmp_prune_fraction=0.5: with gmp_dense_fraction=0.8"),
  ],
)
def test_nothing_to_plan_is_one_line(keys, message):
  with pytest.raises(ConfigError, match=message) as error:
    checked_keys(keys)
  assert "\n" not in str(error.value)
