"""A pruned weight matrix in packed form, and its product with vectors. Needs no torch.

bfloat16 values are kept as uint16, their bits.
"""

from collections.abc import Mapping
import ctypes
import dataclasses
import functools
from typing import Any, Literal

import ml_dtypes
import numpy as np

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inference.library import kernels, MatrixStruct
from maxtext_sparse.weights import bitmask

Array = np.ndarray[Any, Any]
Layout = Literal["bitmask", "csr", "dense"]
LAYOUTS: tuple[Layout, ...] = ("bitmask", "csr", "dense")
Dtype = Literal["fp32", "bf16", "int8"]
DTYPES: tuple[Dtype, ...] = ("fp32", "bf16", "int8")
# The type that holds the values of each dtype.
HELD_AS: dict[Dtype, np.dtype[Any]] = {
  "fp32": np.dtype(np.float32),
  "bf16": np.dtype(np.uint16),
  "int8": np.dtype(np.int8),
}
# Columns are 16 bits in csr, and sums of int8 products overflow 32 bits beyond.
MAX_COLUMNS_16 = 65_536
# More vectors than the kernels take at a time are multiplied with an expanded matrix by the callers that can.
MAX_TOKENS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class PackedMatrix:
  """A weight matrix [rows, cols], rows being output features.

  The arrays are checked when the object is made: no kernel ever reads a matrix whose parts contradict each other.

  Attributes:
    layout: bitmask, csr or dense.
    dtype: of the values.
    shape: (rows, cols).
    values: the non-zero values in row-major order; all values for dense.
    row_offsets: int64 [rows + 1]; row r has the values from row_offsets[r] to row_offsets[r + 1]. Not for dense.
    bitmask: uint8 [rows, ceil(cols / 8)], bit j of byte i is column 8 i + j; for bitmask.
    columns: uint16, the column of each value, ascending in a row; for csr.
    scales: float32 [rows], a weight is its int8 value times its row's scale; for int8.

  Raises:
    ConfigError: the arrays do not describe one matrix; the message says what is wrong.
  """

  layout: Layout
  dtype: Dtype
  shape: tuple[int, int]
  values: Array
  row_offsets: Array | None = None
  bitmask: Array | None = None
  columns: Array | None = None
  scales: Array | None = None

  def __post_init__(self) -> None:
    # Kernels read by address: arrays that are not contiguous or not aligned are copied here, others are kept.
    for field in ("values", "row_offsets", "bitmask", "columns", "scales"):
      array = getattr(self, field)
      if array is not None:
        object.__setattr__(self, field, np.require(array, requirements=["C", "A"]))
    check(self)

  @classmethod
  def pack(cls, weights: Array, dtype: Dtype | None = None) -> "PackedMatrix":
    """Packs a dense matrix [rows, cols] as a bitmask; zeros of either sign are left out.

    Args:
      weights: float32 or bfloat16 (of ml_dtypes).
      dtype: of the values, that of `weights` by default; `int8` rounds.
    """
    packed = cls.from_fields(bitmask.pack(weights))
    return packed.with_dtype(dtype or packed.dtype)

  @classmethod
  def from_fields(cls, fields: Mapping[str, Array]) -> "PackedMatrix":
    """The matrix of a bitmask file's fields, see `maxtext_sparse/weights/bitmask.py`; the arrays are not copied.

    Raises:
      ConfigError: the fields contradict each other, or the values are neither float32 nor bfloat16.
    """
    values, shape = fields["compressed"], fields["shape"]
    dtypes: dict[Any, Dtype] = {np.dtype(np.float32): "fp32", np.dtype(ml_dtypes.bfloat16): "bf16"}
    if values.dtype not in dtypes:
      raise ConfigError(f"values are {values.dtype}: must be float32 or bfloat16")
    _expect("shape", shape, np.dtype(np.int64), (2,))
    dtype = dtypes[values.dtype]
    return cls(
      layout="bitmask",
      dtype=dtype,
      shape=(int(shape[0]), int(shape[1])),
      values=values.view(HELD_AS[dtype]),
      row_offsets=fields["row_offsets"],
      bitmask=fields["bitmask"],
    )

  @property
  def density(self) -> float:
    """Share of the weights that are stored."""
    return self.values.size / max(1, self.shape[0] * self.shape[1])

  @property
  def num_bytes(self) -> int:
    """Bytes of all arrays."""
    arrays = (self.values, self.row_offsets, self.bitmask, self.columns, self.scales)
    return sum(array.nbytes for array in arrays if array is not None)

  def multiply(self, x: Array) -> Array:
    """x [tokens, cols] float32 times the transposed matrix: [tokens, rows] float32."""
    x = np.ascontiguousarray(x, np.float32)
    if x.ndim != 2 or x.shape[1] != self.shape[1]:
      raise ConfigError(f"x has shape {x.shape}: must be (tokens, {self.shape[1]})")
    out = np.empty((x.shape[0], self.shape[0]), np.float32)
    self.multiply_at(x.ctypes.data, x.shape[0], out.ctypes.data)
    return out

  def multiply_at(self, x: int, num_tokens: int, out: int) -> None:
    """`multiply` with addresses: of `num_tokens` x cols floats, and of `num_tokens` x rows floats that are written."""
    library = kernels()
    if library is None:
      _view(out, num_tokens, self.shape[0])[:] = _view(x, num_tokens, self.shape[1]) @ self.expand().T
    elif library.mxs_multiply(self._struct, x, num_tokens, out):
      raise MemoryError(f"{num_tokens} vectors of {self.shape[1]} columns")

  def expand(self, begin: int = 0, end: int | None = None, dtype: Dtype = "fp32") -> Array:
    """Rows `begin` to `end` (all by default) with their zeros, [end - begin, cols] in fp32 or bf16."""
    end = self.shape[0] if end is None else end
    assert 0 <= begin <= end <= self.shape[0]
    out = np.empty((end - begin, self.shape[1]), HELD_AS[dtype])
    self.expand_at(begin, end, out.ctypes.data, dtype)
    return out

  def expand_at(self, begin: int, end: int, out: int, dtype: Dtype = "fp32") -> None:
    """`expand` to an address."""
    assert dtype in ("fp32", "bf16")
    library = kernels()
    if library is None:
      rows = _expanded_by_numpy(self, begin, end)
      _view(out, end - begin, self.shape[1], dtype)[:] = rows if dtype == "fp32" else to_bf16(rows)
    else:
      library.mxs_expand(self._struct, begin, end, out, DTYPES.index(dtype))

  def copy(self) -> "PackedMatrix":
    """The same matrix in memory of its own."""
    arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    owned: dict[str, Any] = {name: array.copy() for name, array in arrays.items() if isinstance(array, np.ndarray)}
    return dataclasses.replace(self, **owned)

  def with_dtype(self, dtype: Dtype) -> "PackedMatrix":
    """The same matrix with values of another dtype; int8 is rounded to the nearest of 255 steps of its row.

    Raises:
      ConfigError: int8 of a matrix with more than 65,536 columns, or of values that are not finite.
    """
    if dtype == self.dtype:
      return self
    if self.dtype == "int8":
      raise ConfigError(f"dtype={dtype}: int8 values are rounded already, pack the matrix again from its source")
    values = to_float32(self.values)
    if dtype == "int8":
      rounded, scales = _quantise(values, self._row_lengths(), self.shape)
      return dataclasses.replace(self, dtype=dtype, values=rounded, scales=scales)
    return dataclasses.replace(self, dtype=dtype, values=values if dtype == "fp32" else to_bf16(values))

  def with_layout(self, layout: Layout) -> "PackedMatrix":
    """A bitmask matrix in another layout; the values of csr are shared with this one.

    Raises:
      ConfigError: csr of a matrix with more than 65,536 columns, or a matrix that is not a bitmask.
    """
    if layout == self.layout:
      return self
    if self.bitmask is None:
      raise ConfigError(f"layout={layout}: made from bitmask only, this matrix is {self.layout}")
    if layout == "csr":
      return dataclasses.replace(self, layout=layout, bitmask=None, columns=_columns(self))
    dense = np.zeros(self.shape, self.values.dtype)
    dense[_unpacked(self.bitmask, self.shape[1])] = self.values
    return dataclasses.replace(self, layout=layout, values=dense.ravel(), bitmask=None, row_offsets=None)

  @functools.cached_property
  def _struct(self) -> Any:
    arrays = (self.values, self.bitmask, self.columns, self.row_offsets, self.scales)
    addresses = [None if array is None else array.ctypes.data for array in arrays]
    return ctypes.byref(MatrixStruct(LAYOUTS.index(self.layout), DTYPES.index(self.dtype), *self.shape, *addresses))

  def _row_lengths(self) -> Array:
    if self.row_offsets is None:
      return np.full(self.shape[0], self.shape[1])
    return np.diff(self.row_offsets)


def check(matrix: PackedMatrix) -> None:
  """Refuses a matrix whose arrays contradict each other.

  Raises:
    ConfigError: what is wrong, in one line.
  """
  rows, cols = matrix.shape
  if matrix.layout not in LAYOUTS or matrix.dtype not in DTYPES:
    raise ConfigError(f"layout={matrix.layout} dtype={matrix.dtype}: must be one of {LAYOUTS} and {DTYPES}")
  if rows < 1 or cols < 1:
    raise ConfigError(f"shape={matrix.shape}: must be at least one row and one column")
  _expect("values", matrix.values, HELD_AS[matrix.dtype], (matrix.values.size,))
  if (matrix.dtype == "int8" or matrix.layout == "csr") and cols > MAX_COLUMNS_16:
    raise ConfigError(f"shape={matrix.shape}: int8 and csr take at most {MAX_COLUMNS_16} columns")
  if matrix.dtype == "int8":
    _expect("scales", matrix.scales, np.dtype(np.float32), (rows,))
  if matrix.layout == "dense":
    _expect("values", matrix.values, HELD_AS[matrix.dtype], (rows * cols,))
    return
  _expect("row_offsets", matrix.row_offsets, np.dtype(np.int64), (rows + 1,))
  assert matrix.row_offsets is not None
  _check_offsets(matrix.row_offsets, matrix.values.size)
  (_check_bitmask if matrix.layout == "bitmask" else _check_columns)(matrix, np.diff(matrix.row_offsets))


def to_float32(values: Array) -> Array:
  """float32 of values that are float32, int8, or bfloat16 as uint16."""
  if values.dtype == np.uint16:
    values = values.view(ml_dtypes.bfloat16)
  return values.astype(np.float32, copy=False)


def to_bf16(values: Array) -> Array:
  """The bits of the nearest bfloat16 of each float32."""
  return values.astype(ml_dtypes.bfloat16).view(np.uint16)


def _expect(name: str, array: Array | None, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
  if array is None or array.dtype != dtype or array.shape != shape:
    found = "is missing" if array is None else f"is {array.dtype} of shape {array.shape}"
    raise ConfigError(f"{name} {found}: must be {dtype} of shape {shape}")


def _check_offsets(row_offsets: Array, num_values: int) -> None:
  if row_offsets[0] != 0 or row_offsets[-1] != num_values:
    found = f"{row_offsets[0]} to {row_offsets[-1]}"
    raise ConfigError(f"row_offsets go from {found}: must go from 0 to the {num_values} values that are stored")
  falls = np.flatnonzero(np.diff(row_offsets) < 0)
  if falls.size:
    raise ConfigError(f"row_offsets fall after row {falls[0]}: must ascend")


def _check_bitmask(matrix: PackedMatrix, lengths: Array) -> None:
  rows, cols = matrix.shape
  _expect("bitmask", matrix.bitmask, np.dtype(np.uint8), (rows, (cols + 7) // 8))
  assert matrix.bitmask is not None
  counts = np.bitwise_count(matrix.bitmask).sum(axis=1, dtype=np.int64)
  wrong = np.flatnonzero(counts != lengths)
  if wrong.size:
    row = wrong[0]
    raise ConfigError(f"bitmask of row {row} has {counts[row]} bits set: must be {lengths[row]}, its number of values")
  if cols % 8 and (matrix.bitmask[:, -1] >> (cols % 8)).any():
    raise ConfigError(f"bitmask has bits set beyond column {cols - 1}: must be zero there")


def _check_columns(matrix: PackedMatrix, lengths: Array) -> None:
  _expect("columns", matrix.columns, np.dtype(np.uint16), (matrix.values.size,))
  if matrix.columns is not None and matrix.columns.size and int(matrix.columns.max()) >= matrix.shape[1]:
    raise ConfigError(f"columns reach {matrix.columns.max()}: must be below {matrix.shape[1]}")


def _quantise(values: Array, lengths: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
  """The nearest int8 of each value and the scale of each row, its largest magnitude / 127."""
  if not np.isfinite(values).all():
    raise ConfigError("dtype=int8: some values are not finite")
  largest = np.zeros(shape[0], np.float32)
  # `reduceat` takes the rows that have values; the others keep scale 0.
  is_filled = lengths > 0
  starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])[is_filled]
  if starts.size:
    largest[is_filled] = np.maximum.reduceat(np.abs(values), starts)
  scales = largest / np.float32(127)
  steps = np.repeat(np.where(scales > 0, scales, np.float32(1)), lengths)
  return np.clip(np.rint(values / steps), -127, 127).astype(np.int8), scales


def _columns(matrix: PackedMatrix) -> Array:
  if matrix.shape[1] > MAX_COLUMNS_16:
    raise ConfigError(f"layout=csr: at most {MAX_COLUMNS_16} columns, this matrix has {matrix.shape[1]}")
  assert matrix.bitmask is not None
  library = kernels()
  if library is None:
    return np.nonzero(_unpacked(matrix.bitmask, matrix.shape[1]))[1].astype(np.uint16)
  columns = np.empty(matrix.values.size, np.uint16)
  library.mxs_columns(matrix._struct, columns.ctypes.data)
  return columns


def _unpacked(bitmask: Array, cols: int) -> Array:
  """The keep mask [rows, cols] of a bitmask."""
  return np.unpackbits(bitmask, axis=1, count=cols, bitorder="little").astype(bool)


def _expanded_by_numpy(matrix: PackedMatrix, begin: int, end: int) -> Array:
  cols = matrix.shape[1]
  scales = np.float32(1) if matrix.scales is None else matrix.scales[begin:end, None]
  if matrix.row_offsets is None:
    return to_float32(matrix.values.reshape(matrix.shape)[begin:end]) * scales
  first, last = matrix.row_offsets[begin], matrix.row_offsets[end]
  out = np.zeros((end - begin, cols), np.float32)
  if matrix.bitmask is not None:
    out[_unpacked(matrix.bitmask[begin:end], cols)] = to_float32(matrix.values[first:last])
  else:
    assert matrix.columns is not None
    rows = np.repeat(np.arange(end - begin), np.diff(matrix.row_offsets[begin : end + 1]))
    out[rows, matrix.columns[first:last]] = to_float32(matrix.values[first:last])
  return out * scales


def _view(address: int, rows: int, cols: int, dtype: Dtype = "fp32") -> Array:
  """The numbers at an address as an array that does not own them."""
  kind = ctypes.c_float if dtype == "fp32" else ctypes.c_uint16
  return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(kind)), (rows, cols))
