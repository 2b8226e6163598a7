"""Random pruned matrices and what their products must be, computed by numpy in float64.

Run as a program it goes through a fixed set of cases once, for the address sanitizer: `python -m tests.inference.cases`.
"""

import itertools

import numpy as np

from maxtext_sparse.inference import library
from maxtext_sparse.inference.matrix import DTYPES, LAYOUTS, PackedMatrix

DENSITIES = (0.0, 0.03, 0.2, 0.5, 0.97, 1.0)


def supported_isas():
  """The instruction sets of this processor."""
  names = []
  for name in library.ISAS:
    try:
      library.use_isa(name)
    except ValueError:
      continue
    names.append(name)
  return names


def draw_weights(rows, cols, density, seed):
  """float32 [rows, cols] of the density; from three rows on, the first is empty and the last is full."""
  generator = np.random.default_rng(seed)
  weights = generator.standard_normal((rows, cols), np.float32)
  # An exact zero would count as pruned.
  weights = np.where(weights == 0, np.float32(1), weights)
  keep_mask = generator.random((rows, cols)) < density
  if rows > 2:
    keep_mask[0], keep_mask[-1] = False, True
  return np.where(keep_mask, weights, np.float32(0))


def draw_vectors(num_tokens, cols, seed):
  return np.random.default_rng(seed + 1).standard_normal((num_tokens, cols), np.float32)


def check_product(matrix: PackedMatrix, x):
  """Compares `multiply` with float64 and its own expansion, and returns it."""
  product = matrix.multiply(x)
  weights = matrix.expand().astype(np.float64)
  # Each of cols additions rounds to 24 bits, relative to the sum of magnitudes at most.
  bound = 2.0**-24 * (matrix.shape[1] + 4) * (np.abs(x) @ np.abs(weights).T)
  if matrix.dtype == "int8" and matrix.layout != "csr":
    # A vector is rounded to steps of its largest magnitude / 32639 (fewer steps beyond 4,096 columns).
    steps = min(32639, (2**31 - 1) // (128 * -(-matrix.shape[1] // 8)))
    bound = bound + 0.51 * np.abs(x).max(axis=1, keepdims=True) / steps * np.abs(weights).sum(axis=1)
  assert (np.abs(product - x @ weights.T) <= bound + 1e-30).all()
  return product


def main() -> None:
  # Threads alternate between 1, 2 and 3, so that wide matrices meet threads that have seen narrow ones only.
  shapes = [(1, 1), (3, 7), (5, 64), (9, 65), (17, 157), (40, 1000), (3, 5000), (5, 4000)]
  for isa, dtype, layout in itertools.product(supported_isas(), DTYPES, LAYOUTS):
    library.use_isa(isa)
    for (rows, cols), density, num_tokens in itertools.product(shapes, DENSITIES, (1, 3, 8, 11)):
      library.set_threads(1 + rows % 3, cpus=[0, 0, 0])
      packed = PackedMatrix.pack(draw_weights(rows, cols, density, seed=rows), dtype)
      check_product(packed.with_layout(layout), draw_vectors(num_tokens, cols, seed=rows))
  print("checked with", library.isa(), "and slower")


if __name__ == "__main__":
  main()
