"""Predictions and recommendations against closed forms, and the shapes against the paper's Table 1."""

import math

import numpy as np
import pytest

from maxtext_sparse.config import SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.fit import fit
from maxtext_sparse.laws.forms import LAWS
from maxtext_sparse.laws.predict import average_density, candidate, candidate_of_config, extrapolations, predictions
from maxtext_sparse.laws.recommend import best_run, nothing_sparse, recommend, TrainingBudget
from maxtext_sparse.laws.runs_table import check_runs
from maxtext_sparse.laws.shapes import nearest_shape, SUITE
from maxtext_sparse.laws.uncertainty import bootstrap
from maxtext_sparse.plan.cost import tokens_per_step
from tests.laws.conftest import average_law, runs_of


@pytest.fixture(scope="module")
def exact():
  return fit(LAWS["average"], check_runs(runs_of(average_law)))


@pytest.mark.parametrize(
  ("name", "prunable", "total"),
  [("58m", 41.5e6, 57.9e6), ("162m", 137.8e6, 162.4e6), ("468m", 435.4e6, 468.2e6), ("1b", 1139e6, 1205e6)],
)
def test_suite_counts(name, prunable, total):
  shape = SUITE[name]
  np.testing.assert_allclose([shape.prunable, shape.total], [prunable, total], rtol=1.3e-3)
  assert nearest_shape(shape.prunable) == shape


@pytest.mark.parametrize("wanted", [3e6, 60e6, 100e6, 250e6, 700e6, 2e9, 7e9])
@pytest.mark.parametrize("chips", [1, 16])
def test_nearest_shape_runs(wanted, chips):
  shape = nearest_shape(wanted, chips)
  assert shape.emb == shape.heads * shape.head_dim and shape.head_dim % 2 == 0 and shape.emb % chips == 0
  assert abs(math.log(shape.prunable / wanted)) < 0.15


@pytest.mark.parametrize(
  ("sparsity", "expected"), [(0.0, 1.0), (0.2, 0.8926), (0.4, 0.7662), (0.6, 0.6103), (0.8, 0.3991)]
)
def test_average_density_of_the_default_schedule(sparsity, expected):
  np.testing.assert_allclose(average_density(SparsityKeys(sparsity=sparsity)), expected, atol=5e-5)


def test_average_density_by_steps_and_cubic():
  """The public runs' schedule: 1 - 0.625 S."""
  keys = SparsityKeys(sparsity=0.8, pruning_schedule="cubic", gmp_fraction_of="steps")
  np.testing.assert_allclose(average_density(keys), 1 - 0.625 * 0.8)
  np.testing.assert_allclose(average_density(keys, 100_000), 1 - 0.625 * 0.8, atol=2e-3)


def test_point_flops():
  run = candidate(1e9, 0.8, 1e11)
  np.testing.assert_allclose(run.effective_flops, 6 * 0.3991 * 1e9 * 1e11, rtol=2e-4)
  assert run.hardware_flops == 6e20 and run.final_params == pytest.approx(2e8)


def test_predictions_of_exact_runs(exact):
  resamples = bootstrap(exact, 20)
  inside, outside = predictions(exact, resamples, [candidate(138e6, 0.4, 4e10), candidate(5e9, 0.9, 4e10)])
  assert inside["loss"] == pytest.approx(float(average_law({"average_params": inside["average_params"], "tokens": 4e10})))
  assert inside["interval"][0] <= inside["loss"] * 1.0001 and inside["loss"] <= inside["interval"][1] * 1.0001
  assert inside["extrapolates"] == []
  assert [text.split()[0] for text in outside["extrapolates"]] == ["average_params", "sparsity"]


def test_extrapolation_names_how_far(exact):
  (text,) = extrapolations(exact, candidate(138e6, 0.4, 1.74e12))
  assert text == "tokens 1.74e+12 is outside the fitted 8.4e+09 to 1.74e+11, 10 times the largest"


def closed_form(fitted, flops):
  """Hoffmann et al. (2022), eq. 4: N* = G (C/6)^(beta/(alpha+beta)), G = (alpha A / (beta B))^(1/(alpha+beta))."""
  c = fitted.coefficients
  total = c["alpha"] + c["beta"]
  return (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / total) * (flops / 6) ** (c["beta"] / total)


def test_without_a_cap_the_optimum_is_dense_and_chinchillas(exact):
  best = best_run(exact, TrainingBudget(1e20))
  assert best.sparsity == 0
  np.testing.assert_allclose(best.dense_params, closed_form(exact, 1e20), rtol=1e-5)
  np.testing.assert_allclose(best.effective_flops, 1e20)


def test_under_a_cap_sparsity_keeps_the_optimal_average(exact):
  """The average law wants N_avg = N* whatever the sparsity; the least sparsity that meets the cap gives it."""
  wanted = closed_form(exact, 1e20)
  best = best_run(exact, TrainingBudget(1e20, max_final_params=0.7 * wanted))
  np.testing.assert_allclose(best.average_params, wanted, rtol=1e-2)
  assert best.final_params <= 0.7 * wanted * (1 + 1e-6) and 0 < best.sparsity < 0.8
  tighter = best_run(exact, TrainingBudget(1e20, max_final_params=0.1 * wanted))
  assert tighter.sparsity == pytest.approx(0.8)
  np.testing.assert_allclose(tighter.final_params, 0.1 * wanted, rtol=1e-6)


def test_recommendation_respects_budget_and_cap(exact):
  cap = 0.6 * closed_form(exact, 4e19)
  result = recommend(exact, bootstrap(exact, 50), TrainingBudget(4e19, cap, num_chips=4))
  for name in ("best", "runnable", "dense_alternative"):
    assert result[name]["effective_flops"] == pytest.approx(4e19)
    assert result[name]["final_params"] <= cap * (1 + 1e-6)
  assert result["best"]["hardware_flops"] > result["dense_alternative"]["hardware_flops"] == pytest.approx(4e19)
  assert result["dense_alternative"]["final_params"] == pytest.approx(result["best"]["final_params"])
  assert result["runnable"]["shape"]["base_emb_dim"] % 4 == 0
  # Runs without scatter leave no doubt.
  assert result["difference"]["loss"] > 0 and result["difference"]["is_clear"]
  assert result["warnings"] == []


def test_dense_runs_are_named_as_the_reason_why_no_sparse_run_is_considered(exact):
  dense = fit(LAWS["average"], check_runs(runs_of(average_law, sparsities=(0.0,))))
  assert "only dense runs were considered" in nothing_sparse(dense, TrainingBudget(1e20, max_sparsity=0.0))
  assert nothing_sparse(dense, TrainingBudget(1e20, max_sparsity=0.8)) is None
  assert nothing_sparse(exact, TrainingBudget(1e20, max_sparsity=0.0)) is None


def test_recommendation_warns_beyond_the_fitted_range(exact):
  result = recommend(exact, bootstrap(exact, 10), TrainingBudget(1e24))
  warnings = result["warnings"]
  assert len(warnings) == 4 and all("outside the fitted" in text for text in warnings)
  assert sum("extrapolation: best, dense alternative: " in text for text in warnings) == 2
  assert result["difference"]["verdict"] == "a dense run is best: the cap does not bind"
  assert result["difference"]["interval"] == [0, 0], "it is its own dense alternative"


def test_a_dense_run_of_the_caps_size_is_said_to_be_that(exact):
  result = recommend(exact, bootstrap(exact, 10), TrainingBudget(4e19, max_final_params=5e7, max_sparsity=0.0))
  assert result["difference"]["verdict"] == "a dense run is best: it has the cap's size"


@pytest.mark.parametrize(("flops", "bound", "words"), [(1e40, 4.35e10, "above the largest"), (1e10, 4.2e5, "below the")])
def test_the_end_of_the_search_is_said(exact, flops, bound, words):
  result = recommend(exact, bootstrap(exact, 10), TrainingBudget(flops))
  assert result["best"]["dense_params"] == pytest.approx(bound, rel=1e-3)
  assert result["warnings"][0].startswith(f"search: ends at dense_params {bound:.4g}") and words in result["warnings"][0]


def test_less_than_a_token_is_refused(exact):
  with pytest.raises(ConfigError, match=r"--flops=1000: less than one token"):
    best_run(exact, TrainingBudget(1000))


def test_no_runnable_shape_under_the_cap_is_said(exact):
  """A vocabulary of 32,000 alone costs a hidden size times that."""
  budget = TrainingBudget(4e19, max_final_params=5e7, num_chips=100_000)
  result = recommend(exact, bootstrap(exact, 10), budget)
  assert result["runnable"] is None and any(text.startswith("runnable: no shape") for text in result["warnings"])
  small = recommend(exact, bootstrap(exact, 10), TrainingBudget(1e13, max_final_params=1e6, vocab=512))
  assert small["runnable"]["shape"]["vocab_size"] == 512 and small["runnable"]["final_params"] <= 1e6


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"flops": 0}, "--flops=0"),
    ({"flops": 1e20, "max_final_params": -1}, "--max-final-params=-1"),
    ({"flops": 1e20, "max_sparsity": 1.0}, "--max-sparsity=1"),
    ({"flops": 1e20, "num_chips": 0}, "--chips=0"),
    ({"flops": 1e20, "vocab": 0}, "--vocab-size=0"),
  ],
)
def test_bad_budgets(values, message):
  with pytest.raises(ConfigError, match=message):
    TrainingBudget(**values)


def test_a_cap_below_reach_is_refused(exact):
  with pytest.raises(ConfigError, match="100 times below the smallest"):
    best_run(exact, TrainingBudget(1e20, max_final_params=1e3))


CONFIG = """
base_num_decoder_layers: 6
base_emb_dim: 512
base_mlp_dim: 2048
base_num_query_heads: 8
base_num_kv_heads: 8
head_dim: 64
vocab_size: 32000
"""


def test_point_of_a_config(tmp_path):
  (tmp_path / "58m.yml").write_text(CONFIG)
  run_keys = "steps: 7000\nper_device_batch_size: 8\nmax_target_length: 2048\nsparsity: 0.8\n"
  (tmp_path / "run.yml").write_text("base_config: 58m.yml\n" + run_keys)
  run = candidate_of_config(str(tmp_path / "run.yml"), None, num_devices=16)
  assert run.dense_params == 41_549_824 and run.tokens == 7000 * 8 * 2048 * 16
  np.testing.assert_allclose(run.average_density, 0.3991, atol=0.01)
  assert candidate_of_config(str(tmp_path / "58m.yml"), 1e9).average_density == 1.0


def test_tokens_of_a_config_are_those_of_the_planner(tmp_path):
  """Both count accumulated micro batches and whole sequences: int(3 x 0.5) x 4 x 2048 tokens a step."""
  path = tmp_path / "run.yml"
  keys = "steps: 100\nper_device_batch_size: 0.5\nmax_target_length: 2048\ngradient_accumulation_steps: 4\n"
  path.write_text(CONFIG + keys)
  run = candidate_of_config(str(path), None, num_devices=3)
  flat = {"per_device_batch_size": 0.5, "max_target_length": 2048, "gradient_accumulation_steps": 4}
  assert run.tokens == 100 * 4 * 2048 == 100 * tokens_per_step(flat, 3)
  with pytest.raises(ConfigError, match=r"less than one sequence a step on 1 devices, give --devices or --tokens"):
    candidate_of_config(str(path), None)
  path.write_text(CONFIG + keys + "enable_rampup_batch_size: true\n")
  with pytest.raises(ConfigError, match="enable_rampup_batch_size=True: steps differ in their tokens, give --tokens"):
    candidate_of_config(str(path), None)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("base_emb_dim: 512", "base_num_decoder_layers=None"),
    (CONFIG + "num_experts: 8", "num_experts=8: not a LLaMA-2 shape"),
    (CONFIG, "give --tokens"),
    ("- 1", "must be a YAML mapping"),
    (CONFIG + "sparsity: 1.5\nsteps: 10", "sparsity=1.5"),
    (CONFIG + "prune_exclude: [mlp]", r"prune_exclude=\['mlp'\]: changes what is prunable, give --dense-params"),
    (CONFIG + "base_config: none.yml", "base_config=none.yml: "),
  ],
)
def test_bad_configs(tmp_path, text, message):
  path = tmp_path / "c.yml"
  path.write_text(text)
  with pytest.raises(ConfigError, match=message):
    candidate_of_config(str(path), None)


def test_a_config_of_no_devices_is_refused(tmp_path):
  with pytest.raises(ConfigError, match=r"--devices=0: must be a positive number"):
    candidate_of_config(str(tmp_path / "c.yml"), None, num_devices=0)


def test_nearest_shape_takes_another_depth_where_the_chips_ask_for_it():
  """Under 480M with 7 chips: 24 layers of 896 are 30 % short, 16 of 1232 not."""
  shape = nearest_shape(480e6, num_chips=7, at_most=480e6)
  assert shape.emb % 7 == 0 and abs(math.log(shape.prunable / 480e6)) < 0.15


def test_nearest_shape_stays_below_a_cap():
  shape = nearest_shape(480e6, at_most=480e6)
  assert shape.prunable <= 480e6 < nearest_shape(481e6).prunable


def test_recommendation_never_exceeds_the_sparsity_cap(exact):
  result = recommend(exact, bootstrap(exact, 10), TrainingBudget(4e19, max_final_params=5e7, max_sparsity=0.6))
  assert result["runnable"]["sparsity"] <= 0.6 and result["runnable"]["final_params"] <= 5e7
