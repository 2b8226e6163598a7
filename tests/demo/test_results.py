"""The final figures of the demo's runs: the arithmetic of each, and of the twin between its neighbours."""

import pytest

from maxtext_sparse.demo.results import read_results
from tests.demo.conftest import PRUNABLE, SCHEDULE, SHAPE, STEPS, TOKENS, TWIN


def test_figures_of_all_runs(runs):
  results, curves = read_results(runs, SCHEDULE, SHAPE, TWIN)
  dense, sparse = results["dense"], results["sparse"]
  assert dense.final_params == dense.average_params == PRUNABLE
  assert dense.effective_flops == 6.0 * PRUNABLE * TOKENS * STEPS
  assert (dense.density, dense.thinnest_matrix) == (1.0, None)
  assert sparse.final_params == 200
  assert sparse.effective_flops == pytest.approx(6.0 * sparse.average_params * TOKENS * STEPS)
  assert 0.3 < sparse.effective_flops / dense.effective_flops < 0.5
  assert (sparse.thinnest_matrix, sparse.thinnest_density) == ("decoder/query/kernel[1]", pytest.approx(0.1))
  assert sparse.eval_loss == pytest.approx(8.3 - 3.9 + 0.05)
  assert curves["dense"].params[1] == [PRUNABLE] * STEPS
  assert curves["sparse"].params[1][-1] == 200
  assert curves["sparse"].eval_loss[0] == [20.0, 39.0]


def test_the_twin_lies_between_its_neighbours(runs):
  """Three quarters of a run that ends 0.4 above the dense one, and a quarter of a run that ends 0.2 above it."""
  results, curves = read_results(runs, SCHEDULE, SHAPE, TWIN)
  twin = results["twin"]
  assert twin.eval_loss == pytest.approx(8.0 + 0.35 - 3.9 + 0.05)
  assert twin.final_params == twin.average_params == 282
  assert twin.effective_flops == pytest.approx(6.0 * 282 * TOKENS * STEPS)
  assert curves["twin"].eval_loss[1] == pytest.approx([8.0 + 0.35 - 2.0 + 0.05, twin.eval_loss])
  assert curves["twin"].params[1] == [282.0] * STEPS


def test_exported_bytes_are_two_for_each_number_and_the_bit_mask_of_the_sparse_model(runs):
  results, _ = read_results(runs, SCHEDULE, SHAPE, TWIN)
  embeddings_and_norms = 300 + 30
  assert results["dense"].export_bytes == 2 * (1000 + embeddings_and_norms)
  # A row of 10 weights has a mask of 2 bytes and an offset of 8. A matrix has one more offset, and 16 bytes of shape.
  masks = (7 * 10 + 30) * (2 + 8) + 8 * (8 + 16)
  assert results["sparse"].export_bytes == 2 * (200 + embeddings_and_norms) + masks
