"""Which parameters are pruned, and how their arrays unfold into matrices.

Prunable is every linear layer's kernel, the output head included; never embeddings, norms, biases or router gates
(paper Table 1). MaxText stacks layers in one array along scan axes, and the experts of a layer along an expert axis. Here
each layer and each expert is a matrix of its own.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
import re
from typing import Any

import jax

from maxtext_sparse.config import SparsityKeys
from maxtext_sparse.errors import ConfigError

# MaxText's expert weights are bare parameters without a `kernel` level: (expert, in, out), scan axes apart.
_EXPERT_WEIGHTS = frozenset({"wi", "wi_0", "wi_1", "wo"})
_NUM_EXPERT_AXES = 3
_NEVER_PRUNED = re.compile(r"(^|_)gate$|^router|embedding|embedder|norm|^conv")
# Logical axis names under which MaxText stacks layers.
_LAYER_AXIS = re.compile(r"layers|^stage$|circular_repeats")
# Attention's output projection, (heads, head_dim, emb), contracts all its axes but the last. Every other linear layer
# contracts its first axis alone: `query` is (emb, heads, head_dim), `wi_0` (emb, mlp), `wo` (mlp, emb).
_CONTRACTS_ALL_BUT_LAST = frozenset({"out"})


@dataclasses.dataclass(frozen=True)
class Parameter:
  """One array of the model.

  Attributes:
    path: `/`-joined names, e.g. `decoder/layers/mlp/wi_0/kernel`.
    shape: array shape.
    stack_axes: axes along which matrices are stacked, layers before experts.
  """

  path: str
  shape: tuple[int, ...]
  stack_axes: tuple[int, ...] = ()

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def stack_shape(self) -> tuple[int, ...]:
    """Sizes of the stack axes; () for a single matrix."""
    return tuple(self.shape[axis] for axis in self.stack_axes)

  @property
  def num_matrices(self) -> int:
    return math.prod(self.stack_shape)

  @property
  def matrix_size(self) -> int:
    return self.size // self.num_matrices

  @property
  def matrix_axes(self) -> tuple[int, ...]:
    """The axes of one matrix, in order."""
    return tuple(axis for axis in range(len(self.shape)) if axis not in self.stack_axes)

  @property
  def contraction_axes(self) -> tuple[int, ...]:
    """The matrix axes that a product with activations sums over, the first ones of `matrix_axes`."""
    module = self.path.rpartition("/kernel")[0].rpartition("/")[2]
    is_output = module in _CONTRACTS_ALL_BUT_LAST and len(self.matrix_axes) > 2
    return self.matrix_axes[:-1] if is_output else self.matrix_axes[:1]

  @property
  def output_axes(self) -> tuple[int, ...]:
    """The other matrix axes."""
    return self.matrix_axes[len(self.contraction_axes) :]

  @property
  def num_in(self) -> int:
    """Rows of a matrix, its input features."""
    return math.prod(self.shape[axis] for axis in self.contraction_axes)

  @property
  def num_out(self) -> int:
    """Columns of a matrix, its output features."""
    return self.matrix_size // self.num_in

  def matrix_names(self) -> Iterator[str]:
    """`path` for a single matrix, `path[layer]`, `path[expert]` or `path[layer,expert]` for stacked ones, row-major."""
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
  return tuple(_describe(path_string(path), leaf) for path, leaf in leaves)


def select_prunable(
  parameters: Iterable[Parameter], keys: SparsityKeys, trainable_patterns: Sequence[str] = ()
) -> tuple[Parameter, ...]:
  """The parameters that a run prunes.

  Args:
    parameters: all parameters of the model.
    keys: `do_not_prune_kw`, `prune_include`, `prune_exclude` and groups of sparsity 0 narrow the default set.
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
  if keys.pruning_method != "hold":
    chosen = [p for p in chosen if _is_to_be_pruned(keys, p.path)]
  if not chosen:
    raise ConfigError(f"sparsity={keys.sparsity}: no parameter left to prune, loosen the include and exclude keys")
  return tuple(chosen)


def rule_index(keys: SparsityKeys, path: str) -> int:
  """Position in `keys.rules` of the rule that a parameter follows: that of the first group that matches its path."""
  rules = keys.rules
  return next(i for i, (pattern, _) in enumerate(rules) if pattern is None or re.search(pattern, path))


def _is_to_be_pruned(keys: SparsityKeys, path: str) -> bool:
  """Whether the parameter's rule prunes it. If no rule prunes anything, whether it would with a global sparsity > 0."""
  index = rule_index(keys, path)
  if any(rule.sparsity > 0 for _, rule in keys.rules):
    return keys.rules[index][1].sparsity > 0
  # A dense run has the same prunable weights as its sparse siblings, whose sizes and costs are compared with its own.
  return index == len(keys.prune_groups) or keys.prune_groups[index].sparsity != 0


def is_linear_kernel(parameter: Parameter) -> bool:
  """Whether the parameter is a linear layer's weight, by MaxText's naming."""
  *modules, name = parameter.path.split("/")
  if name != "kernel" and name not in _EXPERT_WEIGHTS:
    return False
  return len(parameter.matrix_axes) >= 2 and not any(map(_NEVER_PRUNED.search, modules))


def _require_matches(keys: SparsityKeys, linear: Sequence[str], every: Sequence[str]) -> None:
  patterns = [(key, pattern) for key in ("prune_include", "prune_exclude") for pattern in getattr(keys, key)]
  patterns += [(f"prune_groups[{i}].match", group.match) for i, group in enumerate(keys.prune_groups)]
  for key, pattern in patterns:
    if not any(re.search(pattern, path) for path in linear):
      raise ConfigError(f"{key}={pattern!r}: matches none of the {len(linear)} prunable parameters, such as {linear[0]}")
  decided = {rule_index(keys, path) for path in linear}
  for i, group in enumerate(keys.prune_groups):
    if i not in decided:
      raise ConfigError(
        f"prune_groups[{i}].match={group.match!r}: earlier entries decide on all that it matches, move it up"
      )
  keyword = keys.do_not_prune_kw
  if keyword and not any(keyword in path for path in every):
    raise ConfigError(f"do_not_prune_kw={keyword!r}: is part of no parameter path, such as {linear[0]}")


def _matches_any(patterns: Collection[str], path: str) -> bool:
  return any(re.search(pattern, path) for pattern in patterns)


def describe_array(path: str, shape: Sequence[int], layer_axes: Sequence[int]) -> Parameter:
  """A parameter from its path, its shape and its scan axes; the expert axis follows from the path."""
  rest = [axis for axis in range(len(shape)) if axis not in layer_axes]
  is_expert = path.rpartition("/")[2] in _EXPERT_WEIGHTS and len(rest) == _NUM_EXPERT_AXES
  return Parameter(path, tuple(shape), (*layer_axes, rest[0]) if is_expert else tuple(layer_axes))


def _describe(path: str, leaf: Any) -> Parameter:
  value = leaf.get_value() if hasattr(leaf, "get_value") else getattr(leaf, "value", leaf)
  return describe_array(path, value.shape, _layer_axes(leaf))


def _layer_axes(leaf: Any) -> tuple[int, ...]:
  metadata: Mapping[str, Any] = leaf.get_metadata() if hasattr(leaf, "get_metadata") else {}
  names = metadata.get("sharding_names") or metadata.get("out_sharding") or getattr(leaf, "names", ()) or ()
  return tuple(axis for axis, name in enumerate(names) if isinstance(name, str) and _LAYER_AXIS.search(name))
