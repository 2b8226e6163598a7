"""Counts the live weights of each matrix: a small jitted program beside the train step, run at events only.

It keeps the train step free of counting, and its exact integers are what metrics, records and final checks report.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from maxtext_sparse.pruning import counting, threshold
from maxtext_sparse.pruning.prunable import Parameter, path_string


@dataclasses.dataclass(frozen=True)
class Census:
  """Exact counts of one state's prunable weights.

  Attributes:
    nonzero: live weights per matrix name.
    nonfinite: NaN or infinite weights per matrix name.
    sizes: weights per matrix name.
  """

  nonzero: Mapping[str, int]
  nonfinite: Mapping[str, int]
  sizes: Mapping[str, int]

  @property
  def total_nonzero(self) -> int:
    return sum(self.nonzero.values())

  @property
  def densities(self) -> dict[str, float]:
    return {name: self.nonzero[name] / self.sizes[name] for name in self.sizes}

  @property
  def broken(self) -> list[str]:
    """Names of matrices with a weight that is not finite."""
    return [name for name, count in self.nonfinite.items() if count]


class PendingCensus:
  """A census under way on the devices; `result` waits for it and reads it."""

  def __init__(self, parameters: Sequence[Parameter], weights: Mapping[str, jax.Array]):
    self._parameters = tuple(parameters)
    self._counts = _count_matrices(self._parameters, [weights[p.path] for p in parameters])

  def result(self) -> Census:
    nonzero, nonfinite, sizes = {}, {}, {}
    for parameter, counts in zip(self._parameters, jax.device_get(self._counts)):
      live, bad = (_per_matrix(parameter, count) for count in counts)
      for i, name in enumerate(parameter.matrix_names()):
        nonzero[name], nonfinite[name], sizes[name] = live[i], bad[i], parameter.matrix_size
    return Census(nonzero, nonfinite, sizes)


def prunable_weights(tree: Any, parameters: Sequence[Parameter]) -> dict[str, jax.Array]:
  """The prunable arrays of a model state, by path."""
  wanted = {p.path for p in parameters}
  leaves = ((path_string(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))
  return {path: leaf for path, leaf in leaves if path in wanted}


def _count_matrices(parameters: tuple[Parameter, ...], weights: Sequence[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
  sharding = weights[0].sharding
  replicated = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None
  return _compiled_count(parameters, replicated)(list(weights))


@functools.cache
def _compiled_count(parameters: tuple[Parameter, ...], replicated: NamedSharding | None):
  predicates = [lambda w: ~threshold.is_zero(w), threshold.is_nonfinite]

  def count(weights):
    # Layer axes go first so that the partial counts unfold in the order of matrix_names.
    moved = [_layers_first(p, w) for p, w in zip(parameters, weights)]
    return [tuple(counting.count_where(predicates, w, keep=range(len(p.layer_axes)))) for p, w in zip(parameters, moved)]

  return jax.jit(count, out_shardings=replicated)


def _layers_first(parameter: Parameter, weight: jax.Array) -> jax.Array:
  rest = [axis for axis in range(weight.ndim) if axis not in parameter.layer_axes]
  return weight.transpose((*parameter.layer_axes, *rest))


def _per_matrix(parameter: Parameter, partials: np.ndarray) -> list[int]:
  """Python integers, one per matrix; partial counts of matrices beyond 2^31 weights are added here."""
  flat = np.asarray(partials, np.int64).reshape(math.prod(parameter.stack_shape), -1)
  return [int(count) for count in flat.sum(axis=1)]
