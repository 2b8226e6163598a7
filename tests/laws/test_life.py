"""The bill over a model's life against closed forms of the average law, and the best sparsity everywhere."""

import json
import math

import numpy as np
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.bills import Bills, break_even_tokens, serving_cost
from maxtext_sparse.laws.contours import optimal_sparsity
from maxtext_sparse.laws.fit import evaluate, fit
from maxtext_sparse.laws.forms import LAWS
from maxtext_sparse.laws.life import life_to_dict, LifeBudget, live, parse_inference_cost
from maxtext_sparse.laws.predict import candidate
from maxtext_sparse.laws.recommend import TrainingBudget
from maxtext_sparse.laws.runs_table import check_runs
from maxtext_sparse.laws.uncertainty import bootstrap
from tests.laws.conftest import average_law, runs_of

FLOPS, SERVED = 1e20, 1e12


@pytest.fixture(scope="module")
def exact():
  """The average law's fit to runs that follow it, and a few resamples."""
  fitted = fit(LAWS["average"], check_runs(runs_of(average_law)))
  return fitted, bootstrap(fitted, 5)


def lived(exact, served=SERVED, training=None, **budget):
  return live(*exact, LifeBudget(training or TrainingBudget(FLOPS, max_sparsity=0.8), served, **budget))


def test_both_runs_reach_the_loss_of_the_best_dense_run(exact):
  life = lived(exact)
  for run in (life.dense, life.sparse):
    reached = average_law({"average_params": run.average_params, "tokens": run.tokens})
    assert reached == pytest.approx(life.quality.loss, rel=1e-4)


def test_without_serving_the_dense_run_is_the_training_optimum(exact):
  life = lived(exact, served=0.0)
  assert life.dense.effective_flops == pytest.approx(FLOPS, rel=1e-3)
  assert life.best is life.dense, "the average law gives a sparse run nothing where nothing is served"


def test_the_bill_is_training_plus_serving(exact):
  life = lived(exact)
  content = life_to_dict(life, exact[1])
  row = content["best_sparse"]
  assert row["inference_flops"] == pytest.approx(2 * row["final_params"] * SERVED)
  assert row["total_flops"] == pytest.approx(row["effective_flops"] + row["inference_flops"])
  assert content["total_flops"] == content["best"]["total_flops"]
  assert json.loads(json.dumps(content)) == content


def test_serving_moves_the_optimum_to_smaller_models_and_more_tokens(exact):
  """Sardana et al. (2024): smaller and longer than Chinchilla's optimum; sparse ones are smaller still in the end."""
  without, with_serving = lived(exact, served=0.0), lived(exact)
  assert with_serving.dense.dense_params < without.dense.dense_params
  assert with_serving.dense.tokens > without.dense.tokens
  assert with_serving.sparse.final_params < with_serving.dense.final_params
  assert with_serving.best is with_serving.sparse and with_serving.share_cheaper == 1.0


def test_hardware_that_multiplies_zeros_sets_a_break_even(exact):
  """Training the sparse run costs more there, so it wins only once it has served enough."""
  life = lived(exact, trains_dense=True)
  assert 0 < life.break_even < math.inf
  assert life.bills.sparse_wins(np.array([0.9, 1.1]) * life.break_even).tolist() == [False, True]


def test_an_engine_that_profits_from_no_zero_never_lets_the_sparse_run_win(exact):
  life = lived(exact, break_even_density=0.0)
  assert life.break_even == math.inf and life.best is life.dense
  assert life_to_dict(life, exact[1])["break_even_tokens"] is None


def test_serving_cost_between_the_two():
  """At the break-even density of 0.5 a run of density 0.4 costs 80 % of a dense one, one of density 0.6 as much."""
  cost = serving_cost(np.full(2, 1e8), np.array([0.6, 0.4]), 0.5)
  np.testing.assert_allclose(cost, [2e8 * 0.8, 2e8])


def test_break_even_of_two_lines():
  one = np.ones(2)
  bills = Bills(one, np.array([0.0, 0.5]), one, np.array([10.0, 20.0]), np.array([3.0, 1.0]), trains_dense=False)
  # 60 + 3 T = 120 + T at T = 30; the sparse run must win by 0.1 %.
  assert break_even_tokens(bills) == pytest.approx(30.0, rel=5e-3)


def test_the_cap_holds(exact):
  life = lived(exact, training=TrainingBudget(FLOPS, max_final_params=5e7, max_sparsity=0.8))
  assert max(life.dense.final_params, life.sparse.final_params) <= 5e7 * (1 + 1e-9)


@pytest.mark.parametrize(("text", "density"), [("sparse", 1.0), ("dense", 0.0), ("0.55", 0.55)])
def test_inference_costs(text, density):
  assert parse_inference_cost(text) == density


@pytest.mark.parametrize(("content", "density"), [({"break_even_density": 0.6}, 0.6), ({"break_even_density": None}, 0)])
def test_the_benchmark_of_an_engine_gives_the_cost(tmp_path, content, density):
  path = tmp_path / "bench.json"
  path.write_text(json.dumps(content))
  assert parse_inference_cost(str(path)) == density


@pytest.mark.parametrize("text", ["0", "1.5", "cheap", "-1", "nan"])
def test_a_cost_that_is_none_is_refused(text):
  with pytest.raises(ConfigError, match=f"--inference-cost={text}: must be sparse, dense"):
    parse_inference_cost(text)


@pytest.mark.parametrize("served", [-1.0, math.nan, math.inf])
def test_tokens_served_that_are_none_are_refused(served):
  with pytest.raises(ConfigError, match=r"--inference-tokens=.*: must be a number of tokens, 0 or more"):
    LifeBudget(TrainingBudget(1e20), served)


def test_the_best_sparsity_of_the_average_law_gives_the_optimal_average(exact):
  """At a final size and budget below the optimum's, sparsity brings N_avg to Hoffmann's N* of that budget."""
  found = optimal_sparsity(exact[0], 0.9, {}, 4)
  c = exact[0].coefficients
  total = c["alpha"] + c["beta"]
  wanted = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / total)
  for i, size in enumerate(found.final_params):
    for j, tokens in enumerate(found.tokens):
      sparsity = float(found.sparsity[i, j])
      average = candidate(size / (1 - sparsity), sparsity, 1.0).average_params
      optimum = wanted * (size * tokens) ** (c["beta"] / total)
      if sparsity == 0.0:
        assert average >= optimum * 0.99
      elif sparsity == 0.9:
        assert average <= optimum * 1.01
      else:
        assert average == pytest.approx(optimum, rel=0.02)


def test_the_best_sparsity_of_frantars_law_falls_with_the_final_size_and_rises_with_the_tokens(t5):
  """As in figure 4 of Frantar et al. (2023), with their published coefficients."""
  published = {"a_S": 16.8, "b_S": 0.722, "c_S": 45.0, "b_N": 0.245, "a_D": 6.9e8, "b_D": 0.203, "c": 0.651}
  keys = {"pruning_schedule": "cubic", "gmp_fraction_of": "steps"}
  sparsity = optimal_sparsity(evaluate(LAWS["frantar"], t5, published), 0.95, keys, 5).sparsity
  assert (np.diff(sparsity, axis=0) <= 0).all() and (np.diff(sparsity, axis=1) >= 0).all()
  assert sparsity[0, -1] > sparsity[-1, 0]


@pytest.mark.parametrize("law", ["chinchilla", "chinchilla-final"])
def test_a_law_without_sparsity_has_no_best_one(law):
  with pytest.raises(ConfigError, match=f"--law={law}: leaves the sparsity out"):
    optimal_sparsity(fit(LAWS[law], check_runs(runs_of(average_law))), 0.8, {}, 3)
