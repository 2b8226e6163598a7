"""Which parameters are pruned, and how their arrays unfold into matrices.

Prunable is every linear layer's kernel, the output head included; never embeddings, norms, biases or router gates
(paper Table 1). MaxText stacks layers in one array along scan axes; figures per matrix treat each layer as its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
import re
from typing import Any

import jax

from maxtext_sparse.config import ConfigError, SparsityKeys

# MaxText's expert weights are bare parameters without a `kernel` level.
_EXPERT_WEIGHTS = frozenset({"wi", "wi_0", "wi_1", "wo"})
_NEVER_PRUNED = re.compile(r"(^|_)gate$|^router|embedding|embedder|norm|^conv")
# Logical axis names under which MaxText stacks layers.
_LAYER_AXIS = re.compile(r"layers|^stage$|circular_repeats")


@dataclasses.dataclass(frozen=True)
class Parameter:
  """One array of the model.

  Attributes:
    path: `/`-joined names, e.g. `decoder/layers/mlp/wi_0/kernel`.
    shape: array shape.
    layer_axes: axes along which layers are stacked.
  """

  path: str
  shape: tuple[int, ...]
  layer_axes: tuple[int, ...] = ()

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def stack_shape(self) -> tuple[int, ...]:
    """Sizes of the layer axes; () for a single matrix."""
    return tuple(self.shape[axis] for axis in self.layer_axes)

  @property
  def matrix_size(self) -> int:
    return self.size // math.prod(self.stack_shape)

  def matrix_names(self) -> Iterator[str]:
    """`path` for a single matrix, `path[layer]` for stacked ones, in row-major order of the layer axes."""
    for index in itertools.product(*map(range, self.stack_shape)):
      yield self.path + (f"[{','.join(map(str, index))}]" if index else "")


def path_string(key_path: Sequence[Any]) -> str:
  """A jax key path as `/`-joined names, without the `params` collection and the `value` of boxed variables."""
  names = jax.tree_util.keystr(tuple(key_path), simple=True, separator="/").split("/")
  names = names[1:] if names[0] == "params" else names
  return "/".join(names[:-1] if names[-1] in ("value", ".value") else names)


def parameters_of(tree: Any) -> tuple[Parameter, ...]:
  """Describes every leaf of a tree of arrays, shapes, or flax variables with logical axis names, in tree order."""
  is_variable = lambda node: hasattr(node, "get_metadata") or hasattr(node, "names")
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_variable)
  return tuple(Parameter(path_string(path), _shape(leaf), _layer_axes(leaf)) for path, leaf in leaves)


def select_prunable(
  parameters: Iterable[Parameter], keys: SparsityKeys, trainable_patterns: Sequence[str] = ()
) -> tuple[Parameter, ...]:
  """The parameters that a run prunes.

  Args:
    parameters: all parameters of the model.
    keys: `do_not_prune_kw`, `prune_include` and `prune_exclude` narrow the default set.
    trainable_patterns: MaxText's `trainable_parameters_mask`; what it freezes is not pruned.

  Raises:
    ConfigError: a pattern matches nothing, or nothing is left to prune.
  """
  parameters = tuple(parameters)
  linear = [p for p in parameters if is_linear_kernel(p)]
  if linear:
    _require_matches(keys, [p.path for p in linear], [p.path for p in parameters])
  chosen = [p for p in linear if not trainable_patterns or _matches_any(trainable_patterns, p.path)]
  if keys.prune_include:
    chosen = [p for p in chosen if _matches_any(keys.prune_include, p.path)]
  chosen = [p for p in chosen if not _matches_any(keys.prune_exclude, p.path)]
  if keys.do_not_prune_kw:
    chosen = [p for p in chosen if keys.do_not_prune_kw not in p.path]
  if not chosen:
    raise ConfigError(f"sparsity={keys.sparsity}: no parameter left to prune, loosen the include and exclude keys")
  return tuple(chosen)


def is_linear_kernel(parameter: Parameter) -> bool:
  """Whether the parameter is a linear layer's weight, by MaxText's naming."""
  *modules, name = parameter.path.split("/")
  if name != "kernel" and name not in _EXPERT_WEIGHTS:
    return False
  return len(parameter.shape) - len(parameter.layer_axes) >= 2 and not any(map(_NEVER_PRUNED.search, modules))


def _require_matches(keys: SparsityKeys, linear: Sequence[str], every: Sequence[str]) -> None:
  for key in ("prune_include", "prune_exclude"):
    for pattern in getattr(keys, key):
      if not any(re.search(pattern, path) for path in linear):
        raise ConfigError(
          f"{key}={pattern!r}: matches none of the {len(linear)} prunable parameters, such as {linear[0]}"
        )
  keyword = keys.do_not_prune_kw
  if keyword and not any(keyword in path for path in every):
    raise ConfigError(f"do_not_prune_kw={keyword!r}: is part of no parameter path, such as {linear[0]}")


def _matches_any(patterns: Sequence[str], path: str) -> bool:
  return any(re.search(pattern, path) for pattern in patterns)


def _shape(leaf: Any) -> tuple[int, ...]:
  value = leaf.get_value() if hasattr(leaf, "get_value") else getattr(leaf, "value", leaf)
  return tuple(value.shape)


def _layer_axes(leaf: Any) -> tuple[int, ...]:
  metadata: Mapping[str, Any] = leaf.get_metadata() if hasattr(leaf, "get_metadata") else {}
  names = metadata.get("sharding_names") or metadata.get("out_sharding") or getattr(leaf, "names", ()) or ()
  return tuple(axis for axis, name in enumerate(names) if isinstance(name, str) and _LAYER_AXIS.search(name))
