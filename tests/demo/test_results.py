"""The final figures of the demo's runs: the arithmetic of both."""

import pytest

from maxtext_sparse.demo.results import read_results
from tests.demo.conftest import PRUNABLE, SCHEDULE, STEPS, TOKENS


def test_figures_of_both_runs(specs):
  results, curves = read_results(specs["dense"], specs["sparse"], SCHEDULE)
  dense, sparse = results["dense"], results["sparse"]
  assert dense.final_params == dense.average_params == PRUNABLE
  assert dense.effective_flops == 6.0 * PRUNABLE * TOKENS * STEPS
  assert (dense.density, dense.thinnest_matrix) == (1.0, None)
  assert sparse.final_params == 200
  assert sparse.effective_flops == pytest.approx(6.0 * sparse.average_params * TOKENS * STEPS)
  assert 0.3 < sparse.effective_flops / dense.effective_flops < 0.5
  assert (sparse.thinnest_matrix, sparse.thinnest_density) == ("decoder/query/kernel[1]", pytest.approx(0.1))
  assert sparse.eval_loss == pytest.approx(8.0 - 3.9 + 0.05)
  assert curves["dense"].params[1] == [PRUNABLE] * STEPS
  assert curves["sparse"].params[1][-1] == 200
  assert curves["sparse"].eval_loss[0] == [20.0, 39.0]
