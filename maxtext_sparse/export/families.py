"""Which models can be exported, and how: one `Family` object turns a checkpoint's arrays into Hugging Face tensors."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.export import llama
from maxtext_sparse.export.checkpoint import Checkpoint

# torch's names, as config.json has them -> those of safetensors.
TORCH_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


class Family(Protocol):
  """How one model becomes a Hugging Face folder.

  Attributes:
    config: content of config.json.
    shapes: each tensor of the folder with its shape.
    notes: lines for the user: what is written otherwise than expected.
  """

  config: dict[str, Any]
  shapes: Mapping[str, tuple[int, ...]]
  notes: list[str]

  def tensors(self, checkpoint: Checkpoint) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """MaxText's path, the Hugging Face name and the value of every tensor once, in any order.

    Linear layers' weights are [outputs, inputs]. The dtype is not yet the one that was asked for.
    """


class LlamaFamily:
  """LLaMA-2 models of any size, scanned or not, with grouped queries, with a tied or an untied head."""

  def __init__(self, flat: Mapping[str, Any], checkpoint: Checkpoint, dtype: str):
    """Checks the checkpoint against the config.

    Args:
      flat: the run's MaxText config.
      checkpoint: the model.
      dtype: torch's name of the dtype to write.

    Raises:
      ConfigError: the config is of another family, or the checkpoint has other shapes; names the parameter.
    """
    self._shape = llama.LlamaShape.from_config(flat)
    is_scanned = bool(flat["scan_layers"])
    check_shapes(checkpoint, llama.maxtext_shapes(self._shape, is_scanned))
    # A bfloat16 embedding is the head that MaxText computes with, and needs no second copy.
    is_tied = self._shape.is_tied and dtype == "bfloat16"
    self._has_head = not is_tied
    self.config = self._shape.to_folder_config(dtype, is_tied)
    self.shapes: Mapping[str, tuple[int, ...]] = llama.folder_shapes(self._shape, self._has_head)
    self.notes: list[str] = []
    if self._shape.is_tied and self._has_head:
      self.notes.append(f"the tied head, which MaxText computes in bfloat16, is a head of its own in the {dtype} folder")

  def tensors(self, checkpoint: Checkpoint) -> Iterator[tuple[str, str, NDArray[Any]]]:
    for path in checkpoint.leaves:
      # A generator of its own: nothing of one array is held while the next one is read.
      yield from self._tensors_of(path, checkpoint.read(path))

  def _tensors_of(self, path: str, array: NDArray[Any]) -> Iterator[tuple[str, str, NDArray[Any]]]:
    for name, part in llama.to_folder(path, array, self._shape, self._has_head):
      yield path, name, part


def family_of(flat: Mapping[str, Any], checkpoint: Checkpoint, dtype: str) -> Family:
  """The family of a run.

  Raises:
    ConfigError: no family fits.
  """
  if str(getattr(flat["decoder_block"], "value", flat["decoder_block"])) == llama.DECODER_BLOCK:
    return LlamaFamily(flat, checkpoint, dtype)
  from maxtext_sparse.export.table_family import TableFamily

  return TableFamily(flat, checkpoint, dtype)


def check_shapes(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]) -> None:
  """Raises ConfigError for the first parameter that the checkpoint or the config has alone or with another shape."""
  for path, shape in expected.items():
    leaf = checkpoint.leaves.get(path)
    if leaf is None:
      raise ConfigError(
        f"{path}: the config makes this parameter {list(shape)}, the checkpoint {checkpoint.folder} has none"
      )
    if leaf.shape != shape:
      raise ConfigError(f"{path}: the checkpoint has shape {list(leaf.shape)}, the config makes it {list(shape)}")
  for path in checkpoint.leaves:
    if path not in expected:
      raise ConfigError(f"{path}: the checkpoint {checkpoint.folder} has this parameter, the config's model has none")
