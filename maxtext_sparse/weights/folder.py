"""A model folder as Hugging Face lays it out, read one tensor at a time, whichever of our formats its weights are in."""

from collections.abc import Iterator
import functools
import json
import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.weights import bitmask
from maxtext_sparse.weights.safetensors import DamagedFileError, DTYPES, TensorFile

CONFIG_FILE = "config.json"
CERTIFICATE_FILE = "sparsity.json"
# Bitmask weights have another name than dense ones: transformers then says that it finds no weights, where it would
# initialise a model at random if it found a file whose tensors it does not know.
STEMS = {"dense": "model", "bitmask": "sparse"}
_FIELD = re.compile(rf"(.+)\.({'|'.join({*bitmask.FIELDS, *bitmask.PACKED_FIELDS})})$")
_NOT_LINEAR = re.compile(r"embed|norm|wte|wpe|(^|\.)(router|gate|shared_expert_gate|conv\w*|lora_\w+)\.|bias$")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


class ModelFolder:
  """The tensors of a folder, dense ones and bitmask ones alike, by the name of the dense tensor."""

  def __init__(self, path: str):
    """Opens every safetensors file of the folder.

    Raises:
      ConfigError: there is no such folder, or it has no safetensors file.
      DamagedFileError: a file is damaged, or the index names a tensor that is not there.
    """
    self.path = path
    self.files = {name: TensorFile(os.path.join(path, name)) for name in _file_names(path)}
    self._file_of = {tensor: file for file in self.files.values() for tensor in file.tensors}
    self._check_index()
    self._fields: dict[str, dict[str, str]] = {}
    for tensor in self._file_of:
      match = _FIELD.match(tensor)
      if match:
        self._fields.setdefault(match[1], {})[match[2]] = tensor

  @functools.cached_property
  def config(self) -> dict[str, Any]:
    """Content of config.json, {} if there is none."""
    return read_json(os.path.join(self.path, CONFIG_FILE))

  def names(self) -> list[str]:
    """Names of all tensors, those of sparse matrices without their fields, in the order of layers."""
    dense = [name for name in self._file_of if name not in self._field_tensors]
    return sorted([*dense, *self._fields], key=_natural)

  def linear_names(self) -> list[str]:
    """Names of the tensors that are linear layers' weights, by Hugging Face's naming."""
    return [name for name in self.names() if is_linear(name, self.shape(name))]

  def shape(self, name: str) -> tuple[int, ...]:
    if name in self._fields:
      return tuple(int(size) for size in self._raw(self._fields[name]["shape"]))
    return self._file_of[name].tensors[name].shape

  def dtype(self, name: str) -> np.dtype[Any]:
    """The dtype of a tensor's values."""
    if name not in self._fields:
      return self._file_of[name].tensors[name].dtype
    fields = self._fields[name]
    if "compressed" in fields:
      return self._file_of[fields["compressed"]].tensors[fields["compressed"]].dtype
    return DTYPES[self._file_of[fields["planes"]].metadata.get("dtype", "BF16")]

  def read(self, name: str) -> NDArray[Any]:
    """A tensor, dense.

    Raises:
      DamagedFileError: the fields of a sparse matrix contradict each other.
    """
    if name not in self._fields:
      return self._raw(name)
    try:
      return bitmask.unpack(self.read_fields(name))
    except (KeyError, ValueError) as error:
      file = os.path.basename(self.file_of(name))
      raise DamagedFileError(f"{file}: {name}: not a bitmask matrix ({error})") from error

  def read_fields(self, name: str) -> dict[str, NDArray[Any]]:
    """The bitmask fields of a matrix: `shape`, `row_offsets`, `compressed` and `bitmask`; packs a dense matrix."""
    if name not in self._fields:
      return bitmask.pack(self._raw(name))
    fields = {field: self._raw(tensor) for field, tensor in self._fields[name].items()}
    return bitmask.decompress(fields, self.dtype(name)) if "planes" in fields else fields

  def is_sparse(self, name: str) -> bool:
    """Whether the matrix is stored as bitmask and values."""
    return name in self._fields

  def file_of(self, name: str) -> str:
    """Path of the file that holds a tensor."""
    tensor = next(iter(self._fields[name].values())) if name in self._fields else name
    return self._file_of[tensor].path

  def _raw(self, tensor: str) -> NDArray[Any]:
    return self._file_of[tensor].read(tensor)

  @functools.cached_property
  def _field_tensors(self) -> frozenset[str]:
    return frozenset(tensor for fields in self._fields.values() for tensor in fields.values())

  def _check_index(self) -> None:
    for name in _index_names(self.path):
      for tensor, file in read_json(os.path.join(self.path, name)).get("weight_map", {}).items():
        if file not in self.files:
          raise DamagedFileError(f"{file}: the index {name} names this file, and it is not there")
        if tensor not in self.files[file].tensors:
          raise DamagedFileError(f"{file}: the index {name} says it holds {tensor}, and it does not")


def load_dense(path: str) -> Iterator[tuple[str, NDArray[Any]]]:
  """Every tensor of a folder as a dense array, one at a time.

  Example: `state = {name: bitmask.to_torch(array) for name, array in load_dense(folder)}`
  """
  folder = ModelFolder(path)
  for name in folder.names():
    yield name, folder.read(name)


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
  """Whether a Hugging Face tensor is a linear layer's weight: a matrix that is no embedding, norm, router or bias."""
  return len(shape) == 2 and min(shape) > 1 and not _NOT_LINEAR.search(name)


def layer_of(name: str) -> int | None:
  """The layer in a Hugging Face tensor name, None outside the layers."""
  match = _LAYER.search(name)
  return int(match[1]) if match else None


def kind_of(name: str) -> str:
  """The name without its layer and the words that all names share: `self_attn.q_proj`."""
  return _LAYER.sub(".", name).removesuffix(".weight").removeprefix("model.").strip(".")


def read_json(path: str) -> dict[str, Any]:
  """A JSON object, {} if there is no such file.

  Raises:
    DamagedFileError: the file is there and is not a JSON object.
  """
  try:
    with open(path, encoding="utf-8") as file:
      content = json.load(file)
  except FileNotFoundError:
    return {}
  except (OSError, ValueError) as error:
    raise DamagedFileError(f"{path}: not JSON ({error})") from error
  if not isinstance(content, dict):
    raise DamagedFileError(f"{path}: must be a JSON object")
  return content


def _file_names(path: str) -> list[str]:
  if not os.path.isdir(path):
    raise ConfigError(f"{path}: no such folder")
  names = sorted(name for name in os.listdir(path) if name.endswith(".safetensors"))
  if not names:
    raise ConfigError(f"{path}: holds no .safetensors file")
  return names


def _index_names(path: str) -> list[str]:
  return sorted(name for name in os.listdir(path) if name.endswith(".safetensors.index.json"))


def _natural(name: str) -> list[tuple[int, str]]:
  """Sorts layer 10 behind layer 9."""
  return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
