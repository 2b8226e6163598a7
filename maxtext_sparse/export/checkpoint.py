"""Reads the parameters of a MaxText checkpoint, one array at a time, without building the model and without MaxText.

A run's checkpoint lies in `RUN/checkpoints/STEP/items`, and one of `train_dpo` in `RUN/checkpoints/STEP/model_params`. A
parameters-only one lies in `.../items` or in the given folder. Orbax reads it, locally or from any store that epath
knows, such as `gs://`.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import os
import re
from typing import Any

from etils import epath
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.pruning.prunable import describe_array, is_linear_kernel, Parameter

_ITEMS = ("items", "model_params")
_UNFINISHED = re.compile(r"\.orbax-checkpoint-tmp")
# Random number generators of dropout are saved beside the weights.
_NOT_WEIGHTS = re.compile(r"(^|/)(\w+_)?rngs(/|$)")
# Where MaxText stacks layers in one array: a name without a number. `layers_0` is a single layer.
_STACKED = re.compile(r"(^|/)(\w*layers|\w*blocks)/(?!\d)")
_NUMBERED = re.compile(r"(^|/)([a-z_]*layers)/(\d+)(?=/)")


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One array of the checkpoint: its path in the model, its place on disk, shape and dtype."""

  path: str
  keys: tuple[str, ...]
  shape: tuple[int, ...]
  dtype: np.dtype[Any]

  @property
  def num_bytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


class Checkpoint:
  """The parameters of a checkpoint. `leaves` maps the path of each, such as `decoder/layers/mlp/wi_0/kernel`."""

  def __init__(self, path: str):
    """Finds the checkpoint and reads what it holds, not the arrays.

    Args:
      path: a step's folder, its `items` folder, a parameters-only folder, or a run's folder, whose last step is taken.

    Raises:
      ConfigError: there is no finished checkpoint.
    """
    # Orbax takes absolute paths only.
    self.items = _find_items(epath.Path(path if "://" in path else os.path.abspath(os.path.expanduser(path))))
    self._handler = _handler()
    tree = _metadata_tree(self._handler, self.items)
    found = list(_leaves(tree))
    if not found:
      raise ConfigError(f"{path}: this checkpoint holds no parameters")
    self.leaves: Mapping[str, Leaf] = {leaf.path: leaf for leaf in sorted(found, key=lambda leaf: leaf.path)}

  @property
  def folder(self) -> epath.Path:
    """The step's folder, or the parameters-only one."""
    return self.items.parent if self.items.name in _ITEMS else self.items

  @property
  def step(self) -> int | None:
    """The step after which the checkpoint was saved, None where the folder is not called by one."""
    return int(self.folder.name) if self.folder.name.isdigit() else None

  @property
  def run_folder(self) -> epath.Path | None:
    """The folder of the run, None for a checkpoint that does not lie in one."""
    return self.folder.parent.parent if self.folder.parent.name == "checkpoints" else None

  @property
  def num_parameters(self) -> int:
    return sum(math.prod(leaf.shape) for leaf in self.leaves.values())

  def read(self, path: str) -> NDArray[Any]:
    """One array, in the dtype that it has on disk.

    Raises:
      ConfigError: the data are missing or damaged.
    """
    import orbax.checkpoint as ocp

    leaf = self.leaves[path]
    args = _nested(leaf.keys, ocp.RestoreArgs(restore_type=np.ndarray))
    try:
      restored = self._handler.restore(
        self.items, args=ocp.args.PyTreeRestore(item=_nested(leaf.keys, 0), restore_args=args, partial_restore=True)
      )
    except Exception as error:  # Orbax and tensorstore raise whatever their stores do
      raise ConfigError(f"{self.items}: cannot read {path} ({_first_line(error)})") from error
    for key in leaf.keys:
      restored = restored[key]
    return np.asarray(restored)

  def parameters(self) -> list[Parameter]:
    """Each array with the axes along which it stacks layers, as the algorithm sees it."""
    return [describe_array(leaf.path, leaf.shape, self._layer_axes(leaf)) for leaf in self.leaves.values()]

  def matrices(self) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each linear layer's weight as a matrix [outputs, inputs], named as in a run's event files."""
    for parameter in self.parameters():
      if is_linear_kernel(parameter):
        yield from self.matrices_of(parameter.path)

  def matrices_of(self, path: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """The matrices of one linear layer's array, one for each layer that it stacks and each expert."""
    parameter = describe_array(path, self.leaves[path].shape, self._layer_axes(self.leaves[path]))
    num_axes = len(parameter.stack_axes)
    stack_first = np.moveaxis(self.read(path), parameter.stack_axes, range(num_axes))
    stacked = stack_first.reshape(-1, *stack_first.shape[num_axes:])
    for name, kernel in zip(parameter.matrix_names(), stacked, strict=True):
      # [inputs..., outputs...] as [outputs, inputs].
      yield name, kernel.reshape(parameter.num_in, parameter.num_out).T

  def _layer_axes(self, leaf: Leaf) -> tuple[int, ...]:
    """MaxText stacks scanned layers along axis 1, vectors included."""
    return (1,) if _STACKED.search(leaf.path) and len(leaf.shape) > 1 else ()


def _find_items(path: epath.Path) -> epath.Path:
  if _UNFINISHED.search(str(path)):
    raise ConfigError(f"{path}: this checkpoint was never finished, give an earlier step")
  if not path.exists():
    raise ConfigError(f"{path}: no such checkpoint")
  for steps in (path / "checkpoints", path):
    finished = [entry for entry in steps.iterdir() if entry.name.isdigit()] if steps.is_dir() else []
    if finished:
      path = max(finished, key=lambda entry: int(entry.name))
      break
  items = next((path / name for name in _ITEMS if (path / name).exists()), path)
  if not (items / "_METADATA").exists():
    raise ConfigError(f"{path}: not a checkpoint, or one that was never finished: {items.name}/_METADATA is missing")
  return items


def _handler() -> Any:
  import orbax.checkpoint as ocp

  return ocp.PyTreeCheckpointHandler()


def _metadata_tree(handler: Any, items: epath.Path) -> Any:
  """What the checkpoint holds, as nested dicts; releases of Orbax wrap it differently."""
  try:
    metadata = handler.metadata(items)
    return getattr(metadata, "tree", metadata)
  except Exception as error:  # Orbax raises whatever its stores do
    raise ConfigError(f"{items}: not a checkpoint that can be read ({_first_line(error)})") from error


def _leaves(tree: Any) -> Iterator[Leaf]:
  """The model's arrays, wherever the trainer put them: `params/params/...` (pre-training), `base/...`, or at the root."""
  root: tuple[str, ...] = ()
  while isinstance(tree, Mapping) and (name := next((name for name in ("params", "base") if name in tree), None)):
    tree, root = tree[name], (*root, name)
  for keys, value in _flatten(tree):
    is_wrapped = keys[-1] == "value"
    path = _NUMBERED.sub(r"\1\2_\3", "/".join(keys[:-1] if is_wrapped else keys))
    # A checkpoint without `params` at its root may hold an optimizer's state beside the model.
    if _NOT_WEIGHTS.search(path) or (not root and keys[0] in ("opt_state", "optimizer", "step", "nnx_aux")):
      continue
    if value.shape is not None and len(value.shape):
      yield Leaf(path, (*root, *keys), tuple(value.shape), _dtype(value.dtype))


def _flatten(tree: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
  if isinstance(tree, Mapping):
    for key, value in tree.items():
      yield from _flatten(value, (*keys, str(key)))
  elif hasattr(tree, "shape"):
    yield keys, tree


def _dtype(dtype: Any) -> np.dtype[Any]:
  return np.dtype(ml_dtypes.bfloat16) if str(dtype) == "bfloat16" else np.dtype(dtype)


def _nested(keys: tuple[str, ...], leaf: Any) -> Any:
  for key in reversed(keys):
    leaf = {key: leaf}
  return leaf


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
