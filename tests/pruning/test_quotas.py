"""Counts for each array: exact totals under every scope, and densities by shape against a bisection in numpy."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.pruning.quotas import erk_densities, floor_counts, quotas, round_to_total, rule_quotas
from maxtext_sparse.rules import Block, PruningRule


def stack(layers: int, rows: int, columns: int) -> Parameter:
  return Parameter(f"{layers}x{rows}x{columns}/kernel", (rows, layers, columns), (1,))


MODELS = st.lists(st.builds(stack, st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6)


def bisected_densities(parameters, density: float) -> np.ndarray:
  """The definition: min(1, c (n_in + n_out) / (n_in n_out)) with the c at which the whole model has the density."""
  size = np.array([p.size for p in parameters], float)
  raw = np.array([1 / p.num_in + 1 / p.num_out for p in parameters])
  low, high = 0.0, 1.0 / raw.min()
  for _ in range(200):
    middle = (low + high) / 2
    kept = (np.minimum(1.0, middle * raw) * size).sum()
    low, high = (middle, high) if kept < density * size.sum() else (low, middle)
  return np.minimum(1.0, high * raw)


@given(MODELS, st.floats(0.01, 1.0))
@settings(max_examples=200)
def test_densities_by_shape_are_those_of_the_definition(parameters, density):
  np.testing.assert_allclose(erk_densities(parameters, density), bisected_densities(parameters, density), atol=1e-9)


def test_the_example_of_the_docstring():
  assert erk_densities([stack(1, 4, 4), stack(1, 8, 8)], 0.5) == pytest.approx([5 / 6, 5 / 12])


def test_a_layer_that_would_exceed_1_stays_dense_and_the_others_take_its_share():
  small, large = stack(1, 2, 2), stack(1, 40, 40)
  assert erk_densities([small, large], 0.5) == pytest.approx([1.0, (0.5 * 1604 - 4) / 1600])


@given(MODELS, st.lists(st.floats(0.02, 0.99), min_size=1, max_size=5), st.sampled_from(["global", "per_matrix", "erk"]))
@settings(max_examples=200)
def test_counts_are_exact_never_rise_and_fit(parameters, densities, scope):
  densities = sorted(densities, reverse=True)
  table = quotas(PruningRule(0.5, scope), parameters, densities)
  total = sum(p.size for p in parameters)
  for counts, density in zip(table, densities):
    if scope == "per_matrix":
      gone = [round(round(1 - density, 15) * p.matrix_size) for p in parameters]
      assert counts == tuple(p.size - p.num_matrices * number for p, number in zip(parameters, gone))
    else:
      assert sum(counts) == total - round(round(1 - density, 15) * total)
  sizes = (total,) if scope == "global" else tuple(p.size for p in parameters)
  for before, after in zip((sizes, *table), table):
    assert all(0 <= a <= b for a, b in zip(after, before))


@given(MODELS, st.floats(0.02, 0.98))
def test_counts_by_shape_are_the_exact_ones_but_for_rounding(parameters, density):
  (counts,) = quotas(PruningRule(0.5, "erk"), parameters, [density])
  total = sum(p.size for p in parameters)
  exact = bisected_densities(parameters, sum(counts) / total) * [p.size for p in parameters]
  assert np.abs(np.array(counts) - exact).max() <= 1 + 1e-6


@given(st.lists(st.builds(stack, st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=5))
def test_blocks_are_counted_whole(parameters):
  blocked = [Parameter(p.path, (4 * p.shape[0], p.shape[1], 2 * p.shape[2]), p.stack_axes) for p in parameters]
  for scope in ("global", "per_matrix", "erk"):
    table = rule_quotas(PruningRule(0.75, scope, Block(4, 2)), blocked, 3)
    assert all(count % 8 == 0 for counts in table for count in counts)
    if scope != "per_matrix":
      total = sum(p.size for p in blocked)
      assert sum(table[-1]) == total - 8 * round(0.75 * total / 8)


def test_floors_are_rounded_up_in_each_matrix():
  # 0.3 of 10 weights are 3, of 12 weights 3.6 and so 4, in each of two layers.
  assert floor_counts(PruningRule(0.5, min_matrix_density=0.3), [stack(2, 5, 2), stack(2, 4, 3)]) == [6, 8]


def test_the_largest_remainders_are_rounded_up():
  assert round_to_total([1.5, 2.25, 0.25], 4, [9, 9, 9]) == [2, 2, 0]
  assert round_to_total([1.5, 2.25, 0.25], 4, [1, 9, 9]) == [1, 3, 0]
