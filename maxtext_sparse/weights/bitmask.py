"""A sparse matrix as one bit per weight and its non-zero values: the `bitmask` format of an export.

A matrix W [rows, cols] (rows are output features, as Hugging Face stores linear weights) called NAME becomes

  NAME.shape        int64 [2]                     (rows, cols)
  NAME.row_offsets  int64 [rows + 1]              values before each row; the last entry is the number of values
  NAME.compressed   dtype of W [row_offsets[-1]]  the non-zero values, row by row
  NAME.bitmask      uint8 [rows, ceil(cols / 8)]  bit j of byte i of a row is set if column 8 i + j is not zero

Example: the row (0, 1.5, 0, 0, 0, 0, 0, 0, -2, 0) has the bitmask bytes 0b00000010, 0b00000001 and the values 1.5, -2.

Compressed, NAME.compressed and NAME.bitmask are replaced by

  NAME.planes       uint8 [sum(plane_sizes)]      zstd frames, one after the other
  NAME.plane_sizes  int64 [itemsize + 1]          bytes of each frame

Frame k < itemsize holds byte k (little endian) of every value, the last one the bitmask. Sign and exponent bits repeat
and are worth packing; in one stream with the mantissa bits they would be drowned.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.weights.safetensors import DamagedFileError

FIELDS = ("shape", "row_offsets", "compressed", "bitmask")
PACKED_FIELDS = ("shape", "row_offsets", "planes", "plane_sizes")
# zstd's default. Higher levels gain less than 1 % on random masks.
_ZSTD_LEVEL = 3


def keep_bits(matrix: NDArray[Any]) -> NDArray[Any]:
  """Bit-packed keep mask, uint8 [rows, ceil(cols / 8)] with little-endian bits; a negative zero counts as zero."""
  return np.packbits(matrix != 0, axis=-1, bitorder="little")


def pack(matrix: NDArray[Any]) -> dict[str, NDArray[Any]]:
  """The four fields of a matrix [rows, cols]."""
  keep_mask = matrix != 0
  row_offsets = np.zeros(len(matrix) + 1, np.int64)
  np.cumsum(np.count_nonzero(keep_mask, axis=1), out=row_offsets[1:])
  return {
    "shape": np.array(matrix.shape, np.int64),
    "row_offsets": row_offsets,
    "compressed": matrix[keep_mask],
    "bitmask": np.packbits(keep_mask, axis=-1, bitorder="little"),
  }


def packed_bytes(shapes: Iterable[tuple[int, int]], num_nonzero: int, itemsize: int) -> int:
  """Bytes of the four fields of all matrices [rows, cols] together, which hold so many values that are not zero."""
  index_bytes = sum(8 * 2 + 8 * (rows + 1) + rows * -(-cols // 8) for rows, cols in shapes)
  return index_bytes + num_nonzero * itemsize


def unpack(fields: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
  """The dense matrix of the four fields.

  Raises:
    ValueError: the fields contradict each other.
  """
  rows, cols = (int(size) for size in fields["shape"])
  keep_mask = np.unpackbits(fields["bitmask"], axis=-1, count=cols, bitorder="little").astype(bool)
  values = fields["compressed"]
  counts = np.count_nonzero(keep_mask, axis=1)
  if keep_mask.shape != (rows, cols) or not np.array_equal(np.diff(fields["row_offsets"]), counts):
    raise ValueError("bitmask and row_offsets do not fit together")
  matrix = np.zeros((rows, cols), values.dtype)
  matrix[keep_mask] = values
  return matrix


def compress(fields: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
  """The packed form of what `pack` returns."""
  values = fields["compressed"]
  planes = np.ascontiguousarray(values.view(np.uint8).reshape(-1, values.dtype.itemsize).T)
  frames = [_zstd().ZstdCompressor(level=_ZSTD_LEVEL).compress(plane.tobytes()) for plane in (*planes, fields["bitmask"])]
  return {
    "shape": fields["shape"],
    "row_offsets": fields["row_offsets"],
    "planes": np.frombuffer(b"".join(frames), np.uint8),
    "plane_sizes": np.array([len(frame) for frame in frames], np.int64),
  }


def decompress(fields: Mapping[str, NDArray[Any]], dtype: np.dtype[Any]) -> dict[str, NDArray[Any]]:
  """What `compress` was given.

  Args:
    fields: those of `PACKED_FIELDS`.
    dtype: of the values; the fields do not say it, the file's metadata does.
  """
  rows, cols = (int(size) for size in fields["shape"])
  ends = np.cumsum(fields["plane_sizes"])
  frames = [fields["planes"][end - size : end].tobytes() for size, end in zip(fields["plane_sizes"], ends)]
  try:
    *planes, bits = (np.frombuffer(_zstd().ZstdDecompressor().decompress(frame), np.uint8) for frame in frames)
  except _zstd().ZstdError as error:
    raise DamagedFileError(f"planes: not zstd frames ({error})") from error
  values = np.ascontiguousarray(np.stack(planes, axis=1)).reshape(-1).view(dtype)
  return {
    "shape": fields["shape"],
    "row_offsets": fields["row_offsets"],
    "compressed": values,
    "bitmask": bits.reshape(rows, -(-cols // 8)),
  }


def to_torch(array: NDArray[Any]) -> Any:
  """A torch tensor with a copy of the array; torch has no numpy dtype for bfloat16, so the bits are handed over."""
  import torch

  if array.dtype.name != "bfloat16":
    return torch.from_numpy(np.array(array))
  return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)


def _zstd() -> Any:
  try:
    import zstandard
  except ImportError:
    raise ConfigError(
      "zstandard: not installed here, compressed values need it: pip install 'maxtext-sparse[export]'"
    ) from None
  return zstandard
