"""Figures of single matrices, counted by hand."""

import hashlib

import ml_dtypes
import numpy as np
import pytest

from maxtext_sparse.inspection.measure import common_structures, complies, dead_heads, jaccard, measure, totals

MATRIX = np.array([[0, 1, 0, 0], [0, -2, 0, 4], [0, 0, 0, 0]], np.float32)


def test_counts():
  figures = measure("m", MATRIX)
  assert (figures.shape, figures.nonzero, figures.size) == ((3, 4), 3, 12)
  assert (figures.dead_rows, figures.dead_columns) == (1, 2)
  assert figures.density == 0.25 and sum(figures.magnitudes) == 3


def test_the_digest_is_of_the_bits_row_by_row():
  # Row 0 keeps column 1, row 1 columns 1 and 3, row 2 none: each row is padded to one byte.
  assert measure("m", MATRIX).mask_sha256 == hashlib.sha256(bytes([0b0010, 0b1010, 0])).hexdigest()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_that_are_not_finite_are_counted_and_live(dtype):
  figures = measure("m", np.array([[np.nan, np.inf, 0, 1]], dtype))
  assert (figures.nonfinite, figures.nonzero) == (2, 3)


def test_n_of_m_runs_along_the_columns():
  two_of_four = np.array([[1, 0, 1, 0, 0, 0, 1, 1], [0, 1, 0, 0, 1, 1, 0, 0]], bool)
  assert complies(two_of_four, "2:4") and not complies(two_of_four, "1:4") and not complies(two_of_four, "1:2")
  assert not complies(two_of_four.T, "2:4")
  assert not complies(np.eye(6, dtype=bool), "1:4"), "6 columns are no groups of 4"


def test_blocks_are_kept_or_removed_whole():
  blocks = np.kron(np.array([[1, 0], [0, 0], [1, 1]], bool), np.ones((2, 3), bool))
  assert complies(blocks, "block:2x3") and complies(blocks, "block:1x3") and not complies(blocks, "block:3x2")
  blocks[0, 0] = False
  assert not complies(blocks, "block:2x3")
  assert not complies(np.ones((4, 4), bool), "block:4x4"), "a dense matrix has no structure"


def test_dead_heads_along_rows_and_columns():
  weight = np.ones((6, 4))
  weight[2:4] = 0
  assert dead_heads(weight, 2, axis=0) == 1 == dead_heads(weight.T, 2, axis=1)
  assert dead_heads(weight, 2, axis=1) == 0


def test_overlap():
  assert jaccard(np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])) == pytest.approx(1 / 3)
  assert jaccard(np.zeros(3), np.zeros(3)) == 1


def test_totals_and_common_structures():
  figures = [measure("a", np.eye(4)), measure("b", np.ones((4, 4)))]
  assert totals(figures) == {"prunable": 32, "nonzero": 20, "density": 0.625}
  assert "1:4" in common_structures(figures[:1]) and common_structures(figures) == []
