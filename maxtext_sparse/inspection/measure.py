"""Exact figures of one matrix [rows, columns], rows being output features and columns the contraction axis."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.weights.bitmask import keep_bits

# Structures that every matrix is tested for, the densest of each kind first.
COMMON_STRUCTURES = ("1:2", "2:4", "1:4", "4:8", "2:8", "block:4x4", "block:8x8", "block:16x16", "block:32x32")
# Magnitudes are sorted into bins a quarter of an octave wide, from 2^-40 and smaller to 2^8 and larger.
SMALLEST_EXPONENT, LARGEST_EXPONENT, BINS_PER_OCTAVE = -40, 8, 4
_N_OF_M = re.compile(r"(\d+):(\d+)$")
_BLOCK = re.compile(r"block:(\d+)x(\d+)$")


@dataclasses.dataclass(frozen=True)
class MatrixFigures:
  """What a matrix is.

  Attributes:
    name: of the tensor, or `path[layer]` of a MaxText array.
    shape: (rows, columns).
    nonzero: weights that are not zero.
    nonfinite: weights that are NaN or infinite.
    dead_rows: rows of zeros only: output features that are always zero.
    dead_columns: columns of zeros only: inputs that are ignored.
    structures: those of the tested structures that the zeros comply with.
    mask_sha256: digest of the bit-packed keep mask, row by row, little-endian bits, each row padded to whole bytes.
    magnitudes: number of live weights in each bin: bin i holds |w| from 2^(SMALLEST_EXPONENT + i / BINS_PER_OCTAVE) on.
  """

  name: str
  shape: tuple[int, int]
  nonzero: int
  nonfinite: int
  dead_rows: int
  dead_columns: int
  structures: tuple[str, ...]
  mask_sha256: str
  magnitudes: tuple[int, ...]

  @property
  def size(self) -> int:
    return self.shape[0] * self.shape[1]

  @property
  def density(self) -> float:
    return self.nonzero / self.size

  def to_dict(self) -> dict[str, Any]:
    """All but the histogram, with the density."""
    fields = {**dataclasses.asdict(self), "shape": list(self.shape), "structures": list(self.structures)}
    del fields["magnitudes"]
    return {**fields, "density": self.density}


def measure(name: str, matrix: NDArray[Any], structures: Sequence[str] = COMMON_STRUCTURES) -> MatrixFigures:
  """Counts a matrix.

  Args:
    name: what to call it.
    matrix: [rows, columns].
    structures: `n:m` and `block:RxC` to test the zeros for.
  """
  keep_mask = matrix != 0
  rows, columns = matrix.shape
  return MatrixFigures(
    name,
    (rows, columns),
    int(np.count_nonzero(keep_mask)),
    # A float32 copy is finite where the weight is, and bfloat16 has no isfinite of its own in every numpy.
    int(np.count_nonzero(~np.isfinite(matrix.astype(np.float32, copy=False)))),
    int(np.count_nonzero(~keep_mask.any(axis=1))),
    int(np.count_nonzero(~keep_mask.any(axis=0))),
    tuple(structure for structure in structures if complies(keep_mask, structure)),
    hashlib.sha256(keep_bits(matrix).tobytes()).hexdigest(),
    _magnitudes(matrix[keep_mask]),
  )


def complies(keep_mask: NDArray[Any], structure: str) -> bool:
  """Whether the zeros of a keep mask [rows, columns] have a structure; False where its size does not divide the matrix.

  n:m: at most n of m neighbours along the columns are kept. block:RxC: each block of R rows and C columns is kept whole
  or is all zero, and at least one is zero.
  """
  match = _N_OF_M.match(structure)
  if match:
    n, m = int(match[1]), int(match[2])
    return keep_mask.shape[1] % m == 0 and int(_groups(keep_mask, 1, m).max(initial=0)) <= n
  match = _BLOCK.match(structure)
  if not match:
    raise ConfigError(f"structure={structure}: must be n:m or block:RxC")
  height, width = int(match[1]), int(match[2])
  if keep_mask.shape[0] % height or keep_mask.shape[1] % width:
    return False
  counts = _groups(keep_mask, height, width)
  return bool(np.isin(counts, (0, height * width)).all() and (counts == 0).any())


def dead_heads(matrix: NDArray[Any], head_dim: int, axis: int) -> int:
  """Attention heads of which every weight is zero; heads lie along rows (0) or columns (1), `head_dim` of them each."""
  alive = (matrix != 0).any(axis=1 - axis)
  return int(np.count_nonzero(~alive.reshape(-1, head_dim).any(axis=1))) if alive.size % head_dim == 0 else 0


def jaccard(one: NDArray[Any], other: NDArray[Any]) -> float:
  """Overlap of two keep masks: weights that both keep, as a share of those that either keeps; 1 if neither keeps any."""
  kept_by_either = int(np.count_nonzero((one != 0) | (other != 0)))
  return int(np.count_nonzero((one != 0) & (other != 0))) / kept_by_either if kept_by_either else 1.0


def totals(figures: Iterable[MatrixFigures]) -> Mapping[str, Any]:
  """`prunable`, `nonzero` and `density` of all matrices together."""
  prunable = nonzero = 0
  for matrix in figures:
    prunable, nonzero = prunable + matrix.size, nonzero + matrix.nonzero
  return {"prunable": prunable, "nonzero": nonzero, "density": nonzero / prunable if prunable else 1.0}


def common_structures(figures: Sequence[MatrixFigures]) -> list[str]:
  """Structures that every matrix complies with; [] if there is no matrix."""
  sets = [set(matrix.structures) for matrix in figures]
  shared = functools.reduce(set.intersection, sets) if sets else set()
  return [structure for structure in (figures[0].structures if figures else ()) if structure in shared]


def _groups(keep_mask: NDArray[Any], height: int, width: int) -> NDArray[Any]:
  """Kept weights in each block of `height` rows and `width` columns."""
  rows, columns = keep_mask.shape
  blocks = keep_mask.reshape(rows // height, height, columns // width, width)
  counts: NDArray[Any] = np.count_nonzero(blocks, axis=(1, 3))
  return counts


def _magnitudes(live: NDArray[Any]) -> tuple[int, ...]:
  finite = np.abs(live.astype(np.float32, copy=False))
  finite = finite[np.isfinite(finite)]
  num_bins = (LARGEST_EXPONENT - SMALLEST_EXPONENT) * BINS_PER_OCTAVE
  bins = np.floor((np.log2(finite) - SMALLEST_EXPONENT) * BINS_PER_OCTAVE)
  counts = np.bincount(np.clip(bins, 0, num_bins - 1).astype(np.int64), minlength=num_bins)
  return tuple(int(count) for count in counts)
