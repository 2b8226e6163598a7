"""Bootstrap and held-out errors: right on data whose spread is known, and the public data's figures."""

import numpy as np
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.fit import at_optimum, fit, minimise_from
from maxtext_sparse.laws.forms import LAWS
from maxtext_sparse.laws.predict import as_columns, candidate
from maxtext_sparse.laws.runs_table import check_runs
from maxtext_sparse.laws.uncertainty import bootstrap, held_out_mae, interval, leave_one_sparsity_out
from tests.laws.conftest import average_law, runs_of


def test_bootstrap_repeats_with_its_seed(runs):
  fitted = fit(LAWS["average"], runs)
  first, second, other = (bootstrap(fitted, 20, seed).thetas for seed in (1, 1, 2))
  np.testing.assert_array_equal(first, second)
  assert not np.array_equal(first, other)


def test_standard_errors_agree_with_refits_to_new_data():
  """The bootstrap's spread of the predicted loss against that over 25 independent draws of the scatter."""
  generator = np.random.default_rng(0)
  columns = as_columns([candidate(200e6, 0.5, 50e9)])

  def draw():
    scatter = np.exp(generator.normal(0, 0.01, 30))
    return fit(LAWS["average"], check_runs(runs_of(lambda table: average_law(table) * scatter)))

  fits = [draw() for _ in range(25)]
  spread = np.std([fitted.predict(columns) for fitted in fits])
  estimates = [np.std(f.law.predict(bootstrap(f, 60).thetas, columns)) for f in fits[:5]]
  assert 0.5 < np.median(estimates) / spread < 2.0


def test_intervals_hold_about_their_share_of_new_runs(runs):
  """Scatter of 0.5 % in ln L is within +-0.82 % in 90 % of runs."""
  resamples = bootstrap(fit(LAWS["average"], runs), 400)
  low, high = interval(resamples.draws(runs))
  loss = np.array(average_law(runs))[:, None] * np.exp(np.random.default_rng(1).normal(0, 0.005, (30, 200)))
  assert 0.80 < np.mean((low[:, None] < loss) & (loss < high[:, None])) < 0.99


def test_held_out_errors_of_exact_runs_are_zero():
  errors = leave_one_sparsity_out(fit(LAWS["average"], check_runs(runs_of(average_law))))
  assert set(errors) == {"0", "0.2", "0.4", "0.6", "0.8"}
  assert max(errors.values()) < 1e-4


def test_held_out_errors_of_an_open_law_are_the_mean_over_equally_good_fits():
  """A law of the dense size between four sparsities: any curve between the middle two is as good."""
  fitted = fit(LAWS["chinchilla"], check_runs(runs_of(average_law)))
  runs, is_held = fitted.runs, fitted.runs["sparsity"] == 0.4
  theta, objective = minimise_from(fitted.law, runs[~is_held], np.concatenate([fitted.theta[None], fitted.good_starts]))
  predicted = fitted.law.predict(theta[at_optimum(objective)], runs[is_held])
  errors = np.abs(predicted - runs["loss"][is_held].to_numpy()).mean(axis=1)
  assert np.ptp(errors) > 0.2 * errors.mean()
  np.testing.assert_allclose(leave_one_sparsity_out(fitted)["0.4"], errors.mean(), rtol=1e-9)


def test_a_sparsity_that_cannot_be_left_out_has_no_error():
  """Of two sparsities neither can be left out of a law of the sparsity."""
  fitted = fit(LAWS["frantar"], check_runs(runs_of(average_law, sparsities=(0.0, 0.5))))
  errors = leave_one_sparsity_out(fitted)
  assert errors == {"0": None, "0.5": None} and held_out_mae(fitted, errors) is None


@pytest.mark.parametrize(
  ("law", "expected"), [("average", 0.0610), ("chinchilla", 0.1286), ("chinchilla-final", 0.1072), ("frantar", 0.0178)]
)
def test_held_out_errors_on_t5(t5, law, expected):
  fitted = fit(LAWS[law], t5)
  np.testing.assert_allclose(held_out_mae(fitted, leave_one_sparsity_out(fitted)), expected, atol=2e-4)


def test_one_resample_is_refused(runs):
  with pytest.raises(ConfigError, match="--bootstrap=1"):
    bootstrap(fit(LAWS["average"], runs), 1)
