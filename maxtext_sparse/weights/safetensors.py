"""Reads and writes safetensors files with numpy.

A safetensors file is `u64 header length (little endian) | JSON header | data`. The header maps each tensor's name to its
dtype, its shape, and its first and last byte in the data. Tensors lie in the data one after the other, without gaps.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import hashlib
import json
import math
import os
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError

DTYPES: Mapping[str, np.dtype[Any]] = {
  "F64": np.dtype("<f8"),
  "F32": np.dtype("<f4"),
  "F16": np.dtype("<f2"),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype("<i8"),
  "I32": np.dtype("<i4"),
  "I16": np.dtype("<i2"),
  "I8": np.dtype("i1"),
  "U8": np.dtype("u1"),
  "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH_BYTES = 8
# As the reference implementation; a longer header is taken for garbage.
_LONGEST_HEADER = 100_000_000
# A header entry's punctuation, dtype, shape and offsets take less than this.
_ENTRY_BYTES = 220
_CHUNK_BYTES = 1 << 24


class DamagedFileError(ConfigError):
  """A file is not what its format says: cut short, overwritten or never finished."""

  exit_status = 1


@dataclasses.dataclass(frozen=True)
class TensorInfo:
  """One tensor of a file; `start` and `end` are byte offsets in the data."""

  name: str
  dtype: np.dtype[Any]
  shape: tuple[int, ...]
  start: int
  end: int

  @property
  def size(self) -> int:
    return math.prod(self.shape)


class TensorFile:
  """A safetensors file that is open for reading. Arrays are views of the mapped file, read when they are used."""

  def __init__(self, path: str):
    """Reads and checks the header.

    Raises:
      DamagedFileError: the header is not JSON, or the file is not as long as the header says.
    """
    self.path = path
    header, data_start = _read_header(path)
    self.metadata: dict[str, str] = header.pop("__metadata__", {})
    self.tensors = {name: _parse_entry(path, name, entry) for name, entry in header.items()}
    self._data = np.memmap(path, np.uint8, "r", offset=data_start) if self.tensors else np.zeros(0, np.uint8)
    _check_extent(path, self.tensors.values(), os.path.getsize(path) - data_start)

  def read(self, name: str) -> NDArray[Any]:
    """The tensor as a read-only array."""
    info = self.tensors[name]
    return self._data[info.start : info.end].view(info.dtype).reshape(info.shape)


class TensorWriter:
  """Writes tensors one after the other into shards of at most `max_bytes`, holding none of them in memory.

  The number of shards is known at the end only, so `close` gives them their final names.
  """

  def __init__(self, folder: str, stem: str, max_bytes: int, names: Iterable[str], metadata: Mapping[str, str]):
    """Prepares to write.

    Args:
      folder: an existing folder.
      stem: files are called `STEM.safetensors`, or `STEM-00001-of-00003.safetensors` if there are several.
      max_bytes: a shard is closed before the tensor that would make it larger; a tensor is never divided.
      names: every tensor that will be added. They decide how much room each header gets.
      metadata: text for the headers.
    """
    self._folder, self._stem, self._max_bytes = folder, stem, max_bytes
    self._metadata = dict(metadata)
    room = len(json.dumps(self._metadata)) + sum(len(json.dumps(name)) + _ENTRY_BYTES for name in names)
    self._header_bytes = -(-(room + 64) // 64) * 64
    self._shards: list[list[str]] = []
    self._entries: dict[str, Any] = {}
    self._file: BinaryIO | None = None
    self._num_bytes = 0
    self.total_bytes = 0

  def add(self, name: str, array: NDArray[Any]) -> None:
    """Writes one tensor."""
    if self._file is None or (self._entries and self._num_bytes + array.nbytes > self._max_bytes):
      self._finish_shard()
      self._start_shard()
    assert self._file is not None and name not in self._entries
    end = self._num_bytes + array.nbytes
    shape = list(array.shape)
    self._entries[name] = {"dtype": _NAMES[array.dtype], "shape": shape, "data_offsets": [self._num_bytes, end]}
    self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    self._num_bytes = end
    self.total_bytes += array.nbytes

  def close(self) -> dict[str, str]:
    """Finishes the last shard and names the files; returns the file of each tensor."""
    self._finish_shard()
    file_of = {}
    for index, names in enumerate(self._shards, 1):
      count = len(self._shards)
      final = f"{self._stem}.safetensors" if count == 1 else f"{self._stem}-{index:05d}-of-{count:05d}.safetensors"
      os.rename(self._unfinished(index), os.path.join(self._folder, final))
      file_of.update(dict.fromkeys(names, final))
    return file_of

  def abandon(self) -> None:
    """Closes the open file after an error."""
    if self._file is not None:
      self._file.close()

  def _unfinished(self, index: int) -> str:
    return os.path.join(self._folder, f"{self._stem}-{index:05d}.unfinished")

  def _start_shard(self) -> None:
    self._file = open(self._unfinished(len(self._shards) + 1), "wb")  # noqa: SIM115  closed by `_finish_shard`
    self._file.seek(_LENGTH_BYTES + self._header_bytes)
    self._entries, self._num_bytes = {}, 0

  def _finish_shard(self) -> None:
    """Writes the header into the room left for it; spaces fill the rest, which the format allows."""
    if self._file is None:
      return
    header = json.dumps({"__metadata__": self._metadata} | self._entries, separators=(",", ":")).encode()
    assert len(header) <= self._header_bytes
    self._file.seek(0)
    self._file.write(self._header_bytes.to_bytes(_LENGTH_BYTES, "little") + header.ljust(self._header_bytes))
    self._file.flush()
    os.fsync(self._file.fileno())
    self._file.close()
    self._file = None
    self._shards.append(list(self._entries))


def sha256_of(path: str) -> str:
  """Hexadecimal digest of a file's content."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while chunk := file.read(_CHUNK_BYTES):
      digest.update(chunk)
  return digest.hexdigest()


def dtype_name(dtype: np.dtype[Any]) -> str:
  """The name that the format has for a numpy dtype, such as BF16."""
  return _NAMES[dtype]


def _read_header(path: str) -> tuple[dict[str, Any], int]:
  try:
    with open(path, "rb") as file:
      length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
      if length > min(_LONGEST_HEADER, os.path.getsize(path)):
        raise DamagedFileError(f"{path}: not a safetensors file, or its header is damaged")
      header = json.loads(file.read(length))
  except OSError as error:
    raise DamagedFileError(f"{path}: cannot read this file ({error.strerror or error})") from error
  except ValueError as error:
    raise DamagedFileError(f"{path}: not a safetensors file, or its header is damaged") from error
  if not isinstance(header, dict):
    raise DamagedFileError(f"{path}: not a safetensors file, or its header is damaged")
  return header, _LENGTH_BYTES + length


def _parse_entry(path: str, name: str, entry: Any) -> TensorInfo:
  try:
    start, end = entry["data_offsets"]
    info = TensorInfo(name, DTYPES[entry["dtype"]], tuple(map(int, entry["shape"])), int(start), int(end))
  except (KeyError, TypeError, ValueError) as error:
    raise DamagedFileError(f"{path}: cannot read the header's entry of {name} ({error!r})") from error
  if info.end - info.start != info.size * info.dtype.itemsize or info.start < 0:
    raise DamagedFileError(f"{path}: {name}: {info.end - info.start} bytes for shape {list(info.shape)}")
  return info


def _check_extent(path: str, tensors: Iterable[TensorInfo], num_bytes: int) -> None:
  expected = max((info.end for info in tensors), default=0)
  if num_bytes != expected:
    raise DamagedFileError(f"{path}: has {num_bytes} bytes of data, must have {expected}: cut short or overwritten")
