"""Figures at equal effective compute: levels, optimum, frontier."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.fit import fit
from maxtext_sparse.laws.forms import LAWS
from maxtext_sparse.laws.runs_table import read_runs
from maxtext_sparse.laws.uncertainty import bootstrap
from maxtext_sparse.plots import draw
from maxtext_sparse.plots.budgets import compute_levels, dense_optimum, draw_isoflop, effective_compute, pareto
from tests.plots.conftest import row, texts, write_table

REPO = Path(__file__).parents[2]


@pytest.fixture
def isoflop_table(tmp_path):
  """5 sizes and 2 sparsities at each of 3 budgets."""
  rows = []
  for flops, size, sparsity in itertools.product((1e18, 1e19, 1e20), (3e7, 1e8, 3e8, 1e9, 3e9), (0.0, 0.6)):
    run = row(f"r{len(rows)}", size, sparsity, 1.0)
    tokens = flops / (6 * run["average_params"])
    rows.append(row(f"r{len(rows)}", size, sparsity, tokens))
  return write_table(tmp_path / "isoflop.csv", rows)


def test_a_tables_own_budgets_are_its_levels(isoflop_table):
  np.testing.assert_allclose(compute_levels(read_runs(isoflop_table)), [1e18, 1e19, 1e20], rtol=1e-9)


def test_a_table_without_equal_budgets_is_cut_evenly(law_table):
  runs = read_runs(law_table)
  levels = compute_levels(runs)
  assert len(levels) == 4 and np.ptp(np.diff(np.log(levels))) < 1e-9
  assert effective_compute(runs).min() < levels[0] < levels[-1] < effective_compute(runs).max()


def test_the_optimum_is_hoffmanns(isoflop_table):
  """N* = G (C/6)^(beta/(alpha+beta)), G = (alpha A / (beta B))^(1/(alpha+beta)) (Hoffmann et al. 2022, eq. 4)."""
  fitted = fit(LAWS["average"], read_runs(isoflop_table))
  c = fitted.coefficients
  total = c["alpha"] + c["beta"]
  expected = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / total) * (1e19 / 6) ** (c["beta"] / total)
  best, (low, high) = dense_optimum(fitted, bootstrap(fitted, 20), 1e19)
  assert best == pytest.approx(expected, rel=1e-5) and low <= best <= high


def test_isoflop_reports_the_optimum_of_each_level(isoflop_table, out):
  result = draw("isoflop", [isoflop_table], out)
  assert [key for key in result["numbers"] if key.startswith("best")] == [
    f"best_size_at_1.00e+{exponent}" for exponent in (18, 19, 20)
  ]
  assert "1e+19, 10 runs" in texts(result)


def test_isoflop_shows_the_runs_even_where_the_law_runs_away():
  """The smallest budget of the miniature runs gives the largest size a tenth of the tokens that any run had."""
  table = str(REPO / "configs" / "sweeps" / "mini-law.csv")
  figure, _ = draw_isoflop([table], ["average"])
  low, high = figure.axes[0].get_ylim()
  losses = read_runs(table)["loss"]
  assert losses.min() - 0.5 < low < losses.min() and losses.max() < high < losses.max() + 0.5


def test_pareto_keeps_what_nothing_beats():
  size, loss = np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([3.0, 2.0, 2.5, 2.5, 1.0])
  assert pareto(size, loss).tolist() == [0, 1, 4]


def test_the_frontier_of_sparse_runs_is_lower_where_the_average_decides(isoflop_table, out):
  numbers = draw("frontier", [isoflop_table], out)["numbers"]
  assert len(numbers) == 3 and all(gain > 0.05 for gain in numbers.values())


@pytest.mark.parametrize(("keep", "kind"), [(lambda s: s == 0, "sparse"), (lambda s: s > 0, "dense")])
def test_an_empty_frontier_is_one_line(isoflop_table, tmp_path, out, keep, kind):
  runs = pd.read_csv(isoflop_table)
  runs[keep(runs["sparsity"])].to_csv(tmp_path / "part.csv", index=False)
  with pytest.raises(ConfigError, match=f"frontier: no run is {kind}, so there is no frontier to compare"):
    draw("frontier", [str(tmp_path / "part.csv")], out)


def test_a_law_without_sparsity_has_no_frontier(isoflop_table, out):
  with pytest.raises(ConfigError, match="--law=chinchilla: leaves the sparsity out"):
    draw("frontier", [isoflop_table], out, "chinchilla")
