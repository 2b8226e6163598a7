"""Weights of a Hugging Face folder by mmap: dense tensors and packed matrices as views of the files, without a copy.

A packed matrix NAME, as `export --format bitmask` writes it, is four tensors of a safetensors file:

  NAME.bitmask      uint8 [rows, ceil(cols / 8)]; bit j of byte i of a row is column 8 i + j
  NAME.compressed   the non-zero values in row-major order, in their dtype
  NAME.row_offsets  int64 [rows + 1]; row r has the values from row_offsets[r] to row_offsets[r + 1]
  NAME.shape        int64 [2]: rows, cols

A safetensors file is the length of its header (8 bytes, little endian), the header (JSON: for each tensor its dtype,
shape, and first and last byte), and the tensors' bytes.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inference.matrix import Array, Dtype, PackedMatrix

_PARTS = ("bitmask", "compressed", "row_offsets", "shape")
_HEADER_LIMIT = 100_000_000
# Safetensors dtype -> numpy's; bfloat16 comes as its bits.
_NUMPY_TYPES = dict(
  zip(
    ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U16", "U8", "BOOL"),
    ("<f8", "<f4", "<f2", "<u2", "<i8", "<i4", "<i2", "|i1", "<u2", "|u1", "|b1"),
  )
)
_VALUE_DTYPES: dict[str, Dtype] = {"F32": "fp32", "BF16": "bf16"}


class WeightFiles:
  """The tensors of all safetensors files of a folder.

  Attributes:
    packed: names of the packed matrices.
    dense: names of the other tensors.
    num_bytes: size of the files.
  """

  def __init__(self, folder: str | Path):
    """Reads the headers only.

    Raises:
      ConfigError: no safetensors file is there, or one is truncated or malformed; the message names it.
    """
    paths = sorted(Path(folder).glob("*.safetensors"))
    if not paths:
      raise ConfigError(f"{folder}: no *.safetensors in it; must be a folder that export wrote")
    self._tensors: dict[str, tuple[str, Array]] = {}
    for path in paths:
      self._tensors.update(read_tensors(path))
    suffix = f".{_PARTS[0]}"
    self.packed = sorted(name.removesuffix(suffix) for name in self._tensors if name.endswith(suffix))
    parts = {f"{name}.{part}" for name in self.packed for part in _PARTS}
    self.dense = sorted(self._tensors.keys() - parts)
    self.num_bytes = sum(path.stat().st_size for path in paths)

  def tensor(self, name: str) -> tuple[str, Array]:
    """(safetensors dtype, view of the file) of a dense tensor; BF16 as uint16."""
    return self._tensors[name]

  def matrix(self, name: str) -> PackedMatrix:
    """A packed matrix, checked, its arrays views of the file.

    Raises:
      ConfigError: parts are missing, or they contradict each other.
    """
    missing = [part for part in _PARTS if f"{name}.{part}" not in self._tensors]
    if missing:
      raise ConfigError(f"{name}: {', '.join(missing)} missing; a packed matrix has {', '.join(_PARTS)}")
    kind, values = self._tensors[f"{name}.compressed"]
    if kind not in _VALUE_DTYPES:
      raise ConfigError(f"{name}.compressed has dtype {kind}: must be {' or '.join(_VALUE_DTYPES)}")
    shape = self._tensors[f"{name}.shape"][1]
    if shape.dtype != np.int64 or shape.shape != (2,):
      raise ConfigError(f"{name}.shape is {shape.dtype} of shape {shape.shape}: must be int64 of shape (2,)")
    try:
      return PackedMatrix(
        layout="bitmask",
        dtype=_VALUE_DTYPES[kind],
        shape=(int(shape[0]), int(shape[1])),
        values=values,
        row_offsets=self._tensors[f"{name}.row_offsets"][1],
        bitmask=self._tensors[f"{name}.bitmask"][1],
      )
    except ConfigError as error:
      raise ConfigError(f"{name}: {error}") from error


def read_tensors(path: Path) -> dict[str, tuple[str, Array]]:
  """Name -> (safetensors dtype, view of the file) of one file.

  Raises:
    ConfigError: the file is truncated or malformed.
  """
  size = path.stat().st_size
  if size < 8:
    raise ConfigError(f"{path}: {size} bytes, truncated: a safetensors file begins with 8 bytes of header length")
  data = np.memmap(path, np.uint8, mode="r")
  header_end = 8 + int.from_bytes(data[:8].tobytes(), "little")
  if header_end > size or header_end > _HEADER_LIMIT:
    raise ConfigError(f"{path}: truncated or no safetensors file: header until byte {header_end}, file of {size} bytes")
  try:
    header = json.loads(data[8:header_end].tobytes())
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return {name: _view(entry, data[header_end:]) for name, entry in entries.items()}
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise ConfigError(f"{path}: not a valid safetensors file ({error})") from error


def _view(entry: dict[str, Any], data: Array) -> tuple[str, Array]:
  kind, shape = entry["dtype"], tuple(int(length) for length in entry["shape"])
  begin, end = entry["data_offsets"]
  if kind not in _NUMPY_TYPES:
    raise ValueError(f"unknown dtype {kind}")
  dtype = np.dtype(_NUMPY_TYPES[kind])
  if not 0 <= begin <= end <= data.size:
    raise ValueError(f"bytes {begin} to {end} of {data.size}, truncated")
  if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize != end - begin:
    raise ValueError(f"{end - begin} bytes for shape {shape} of {kind}")
  return kind, data[begin:end].view(np.ndarray).view(dtype).reshape(shape)
