"""Multiplier laws: known multipliers come back, the average law's claim is tested, precision is a second factor."""

import pathlib
import re

import numpy as np
import pandas as pd
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.fit import evaluate, fit
from maxtext_sparse.laws.forms import LAWS
from maxtext_sparse.laws.multiplier import with_size
from maxtext_sparse.laws.runs_table import check_runs, read_runs
from maxtext_sparse.laws.text import FitSummary
from maxtext_sparse.laws.uncertainty import bootstrap, held_out_error, leave_one_sparsity_out
from maxtext_sparse.laws.worth import factorisation, worths
from tests.laws.conftest import average_law, runs_of

REPO = pathlib.Path(__file__).parents[2]
EFFECTIVE = {0.0: 1.0, 0.2: 0.95, 0.4: 0.8, 0.6: 0.66, 0.8: 0.45}
PRECISION = {4.0: 0.7, 8.0: 0.9, 16.0: 1.0}


def loss_of(worth, tokens):
  return 406.4 / worth**0.34 + 410.7 / tokens**0.28 + 1.69


def multiplied(size="dense_params"):
  """The paper's grid of runs, each worth EFFECTIVE of its size."""
  return check_runs(runs_of(lambda t: loss_of(t[size] * t["sparsity"].map(EFFECTIVE), t["tokens"])))


def with_bits(extra=lambda table: 1.0):
  """The grid at three precisions; `extra` changes the worth of some combinations."""
  table = pd.concat([runs_of(average_law).assign(bits=bits) for bits in PRECISION], ignore_index=True)
  worth = table["dense_params"] * table["sparsity"].map(EFFECTIVE) * table["bits"].map(PRECISION) * extra(table)
  return check_runs(table.assign(run=[f"r{i}" for i in range(len(table))], loss=loss_of(worth, table["tokens"])))


@pytest.mark.parametrize("size", ["dense", "final"])
def test_known_multipliers_come_back(size):
  fitted = fit(with_size(LAWS["multiplier"], size), multiplied(f"{size}_params"))
  assert fitted.objective < 1e-11
  found = {worth.sparsity: worth.effective for worth in worths(fitted, None)}
  assert found == pytest.approx({s: e for s, e in EFFECTIVE.items() if s > 0}, rel=5e-3)
  np.testing.assert_allclose([fitted.coefficients[n] for n in ("alpha", "beta", "E")], [0.34, 0.28, 1.69], rtol=2e-2)


def test_a_power_comes_back():
  runs = check_runs(runs_of(lambda t: loss_of(t["dense_params"] * (1 - t["sparsity"]) ** 0.4, t["tokens"])))
  fitted = fit(LAWS["multiplier-power"], runs)
  assert fitted.coefficients["gamma"] == pytest.approx(0.4, rel=5e-3)
  assert {w.sparsity: w.effective for w in worths(fitted, None)}[0.8] == pytest.approx(0.2**0.4, rel=5e-3)


def test_runs_of_the_average_law_are_worth_their_average(runs):
  """With 0.5 % of scatter, every interval holds N_avg / N: 0.8926, 0.7662, 0.6103, 0.3991 (section 4 of the paper)."""
  fitted = fit(LAWS["multiplier"], runs)
  found = worths(fitted, bootstrap(fitted, 200))
  assert [worth.average_law for worth in found] == pytest.approx([0.8926, 0.7662, 0.6103, 0.3991], abs=5e-5)
  assert all(worth.holds_average for worth in found)


def test_runs_that_are_worth_less_than_their_average_are_told_apart():
  generator = np.random.default_rng(0)
  table = runs_of(lambda t: loss_of(t["final_params"], t["tokens"]) * np.exp(generator.normal(0, 0.002, len(t))))
  fitted = fit(LAWS["multiplier"], check_runs(table))
  assert [worth.holds_average for worth in worths(fitted, bootstrap(fitted, 200))][-1] is False


def test_precision_is_a_second_factor_where_it_varies():
  summary = FitSummary(fit(LAWS["multiplier"], with_bits()))
  content = summary.to_dict()
  assert content["bits_multipliers"] == pytest.approx({f"{b:g}": e for b, e in PRECISION.items()}, rel=1e-2)
  assert content["multipliers"]["0.8"] == pytest.approx(0.45, rel=1e-2)
  assert len(factorisation(summary.fit)) == 15
  assert "two factors" in summary.to_text()


def test_factors_that_do_not_multiply_show_in_the_residual():
  """Runs that are both 80 % sparse and of 4 bits lose half of their worth on top."""
  generator = np.random.default_rng(0)
  worse = lambda t: np.where((t["sparsity"] == 0.8) & (t["bits"] == 4), 0.5, 1.0)
  alike, broken = with_bits(), with_bits(worse)
  for runs, is_explained in ((alike, True), (broken, False)):
    scatter = np.exp(generator.normal(0, 0.001, len(runs)))
    rows = factorisation(fit(LAWS["multiplier"], runs.assign(loss=runs["loss"] * scatter)))
    worst = max(rows, key=lambda row: abs(row["z"]))
    assert (abs(worst["z"]) < 4) == is_explained
  assert (worst["sparsity"], worst["bits"]) == (0.8, 4.0)


def test_constant_bits_are_said_and_not_fitted():
  summary = FitSummary(fit(LAWS["multiplier"], multiplied().assign(bits=16.0)))
  assert summary.to_text().splitlines()[-1] == "bits=16: the same in all runs, so no multiplier of bits is fitted"
  assert "bits_multipliers" not in summary.to_dict()


def test_between_the_levels_the_log_of_the_multiplier_is_straight():
  fitted = fit(LAWS["multiplier"], multiplied())
  columns = {"dense_params": [1e8] * 3, "tokens": [1e10] * 3, "sparsity": [0.6, 1 - np.sqrt(0.4 * 0.2), 0.8]}
  low, middle, high = fitted.law.linear_terms(fitted.law.features(columns))[1][0] @ fitted.theta
  assert middle == pytest.approx((low + high) / 2)


def test_given_multipliers_are_evaluated():
  given = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
  given |= {f"eff({s:g})": e for s, e in EFFECTIVE.items() if s > 0}
  assert evaluate(LAWS["multiplier"], multiplied(), given).objective < 1e-20


def test_a_sparsity_has_no_held_out_error_but_a_size_has():
  fitted = fit(LAWS["multiplier"], multiplied())
  assert set(leave_one_sparsity_out(fitted).values()) == {None}
  assert held_out_error(fitted, (fitted.runs["dense_params"] == 435e6).to_numpy()) < 1e-3


@pytest.mark.parametrize("law", ["multiplier", "multiplier-power"])
@pytest.mark.parametrize(
  ("keep", "message"), [(lambda s: s > 0, "no run is dense"), (lambda s: s == 0, "all runs are dense")]
)
def test_a_multiplier_needs_dense_and_sparse_runs(law, keep, message):
  runs = multiplied()
  with pytest.raises(ConfigError, match=f"--law={law}: {message}"):
    fit(LAWS[law], runs[keep(runs["sparsity"])])


@pytest.mark.parametrize(
  ("law", "size", "message"),
  [
    ("multiplier", "average", "--size=average: must be dense or final"),
    ("frantar", "final", "belongs to the multiplier"),
  ],
)
def test_a_size_that_is_none(law, size, message):
  with pytest.raises(ConfigError, match=message):
    with_size(LAWS[law], size)


@pytest.mark.parametrize(
  ("source", "expected"),
  [
    ("t5", {0.5: 0.884, 0.75: 0.570, 0.875: 0.313}),
    ("vit", {0.5: 0.768, 0.75: 0.552, 0.875: 0.326, 0.9375: 0.181}),
  ],
)
def test_multipliers_of_the_public_runs(request, source, expected):
  fitted = fit(LAWS["multiplier"], request.getfixturevalue(source))
  found = {worth.sparsity: worth.effective for worth in worths(fitted, None)}
  assert found == pytest.approx(expected, abs=2e-3)


def shown_multipliers(name, kind):
  """The values of a row of the README's tables, without their intervals."""
  readme = (REPO / "maxtext_sparse" / "laws" / "README.md").read_text(encoding="utf-8")
  row = re.search(rf"^\| {name}, {kind}.*?\|(.*)\|$", readme, re.MULTILINE)
  assert row, name
  return [float(cell.split()[0]) for cell in row[1].split("|") if cell.strip()]


@pytest.mark.parametrize("name", ["T5", "ViT", "miniature"])
def test_the_readme_shows_these_multipliers(name, request):
  if name == "miniature":
    table = read_runs(str(REPO / "configs" / "sweeps" / "mini-law.csv"))
  else:
    table = request.getfixturevalue(name.lower())
  found = worths(fit(LAWS["multiplier"], table), None)
  assert [worth.effective for worth in found] == pytest.approx(shown_multipliers(name, "fitted"), abs=2e-3)
  assert [worth.average_law for worth in found] == pytest.approx(shown_multipliers(name, "average law"), abs=2e-3)
