"""One view of whatever holds a model: a folder of safetensors files, or a MaxText checkpoint."""

from collections.abc import Iterator
import os
from typing import Any, Protocol

from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inspection.hub import local_folder
from maxtext_sparse.weights.folder import CERTIFICATE_FILE, CONFIG_FILE, ModelFolder, read_json


class Source(Protocol):
  """The linear layers' weights of a model, one at a time.

  Attributes:
    title: what to call the model.
    head_dim: size of an attention head, None if it is not known.
  """

  title: str
  head_dim: int | None

  def matrices(self) -> Iterator[tuple[str, NDArray[Any]]]:
    """Names and matrices [outputs, inputs]."""

  def read(self, name: str) -> NDArray[Any] | None:
    """One matrix by its name, None if the model has none of that name."""


class FolderSource:
  """A model folder, dense or bitmask."""

  def __init__(self, path: str, title: str):
    self.title = title
    self._folder = ModelFolder(path)
    left_dense = read_json(os.path.join(path, CERTIFICATE_FILE)).get("left_dense", ())
    self._names = [name for name in self._folder.linear_names() if name not in left_dense]
    config = self._folder.config
    heads = config.get("num_attention_heads")
    self.head_dim: int | None = config.get("head_dim") or (config["hidden_size"] // heads if heads else None)

  def matrices(self) -> Iterator[tuple[str, NDArray[Any]]]:
    for name in self._names:
      yield name, self._folder.read(name)

  def read(self, name: str) -> NDArray[Any] | None:
    return self._folder.read(name) if name in self._names else None


class CheckpointSource:
  """A MaxText checkpoint. Names are those of a run's event files, `decoder/layers/mlp/wo/kernel[3]`."""

  def __init__(self, path: str):
    from maxtext_sparse.export.checkpoint import Checkpoint

    self._checkpoint = Checkpoint(path)
    run = self._checkpoint.run_folder
    self.title = f"{run.name}, step {self._checkpoint.step}" if run else str(path)
    query = next((leaf for path, leaf in self._checkpoint.leaves.items() if path.endswith("query/kernel")), None)
    self.head_dim: int | None = query.shape[-1] if query else None
    # Stacked layers lie in one array: the last one that was read serves its neighbours too.
    self._latest: tuple[str, dict[str, NDArray[Any]]] = ("", {})

  def matrices(self) -> Iterator[tuple[str, NDArray[Any]]]:
    yield from self._checkpoint.matrices()

  def read(self, name: str) -> NDArray[Any] | None:
    path = name.partition("[")[0].partition("#")[0]
    if path not in self._checkpoint.leaves:
      return None
    if self._latest[0] != path:
      self._latest = (path, dict(self._checkpoint.matrices_of(path)))
    return self._latest[1].get(name)


def open_source(path: str) -> Source:
  """A model folder, here or on the Hub, if there are safetensors files in it, else a checkpoint, here or in a bucket.

  Raises:
    ConfigError: it is neither.
  """
  folder = local_folder(path)
  if "://" not in folder and not os.path.exists(folder):
    raise ConfigError(f"{path}: no such folder or checkpoint")
  names = os.listdir(folder) if os.path.isdir(folder) else []
  if any(name.endswith(".safetensors") for name in names) or CONFIG_FILE in names:
    return FolderSource(folder, os.path.basename(os.path.abspath(folder)) if folder == path else path)
  return CheckpointSource(folder)
