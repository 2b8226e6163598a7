"""Removes more weights of a packed matrix, to find the density at which sparse products begin to pay."""

import numpy as np

from maxtext_sparse.inference.matrix import PackedMatrix


def mask_further(matrix: PackedMatrix, density: float) -> PackedMatrix:
  """The matrix with only its largest weights left, as a bitmask.

  Args:
    matrix: any layout and dtype. int8 values keep their steps, unless a row loses its largest one.
    density: share of all weights that stays, rounded to a whole number; a matrix that has fewer stays as it is.
  """
  dense = matrix.expand()
  flat = dense.ravel()
  num_kept = round(density * flat.size)
  alive = np.flatnonzero(flat)
  if num_kept < alive.size:
    # int8 magnitudes tie massively, so a threshold would miss the number.
    order = np.argpartition(np.abs(flat[alive]), alive.size - num_kept)
    flat[alive[order[: alive.size - num_kept]]] = 0
  return PackedMatrix.pack(dense, matrix.dtype)
