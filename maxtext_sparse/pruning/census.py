"""Counts the live weights of each matrix: a small jitted program beside the train step, run at events only.

It keeps the train step free of counting, and its exact integers are what metrics, records and final checks report.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from maxtext_sparse.pruning import counting, keys, matrices, meshes
from maxtext_sparse.pruning.counting import Count
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
      live, bad = (counting.to_ints(count) for count in counts)
      for i, name in enumerate(parameter.matrix_names()):
        nonzero[name], nonfinite[name], sizes[name] = int(live[i]), int(bad[i]), parameter.matrix_size
    return Census(nonzero, nonfinite, sizes)


def prunable_weights(tree: Any, parameters: Sequence[Parameter]) -> dict[str, jax.Array]:
  """The prunable arrays of a model state, by path."""
  wanted = {p.path for p in parameters}
  leaves = ((path_string(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))
  return {path: leaf for path, leaf in leaves if path in wanted}


def _count_matrices(parameters: tuple[Parameter, ...], weights: Sequence[jax.Array]) -> list[tuple[Count, Count]]:
  sharding = weights[0].sharding
  replicated = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None
  with meshes.current_if_explicit(replicated and replicated.mesh):
    counts: list[tuple[Count, Count]] = _compiled_count(parameters, replicated)(list(weights))
  return counts


@functools.cache
def _compiled_count(parameters: tuple[Parameter, ...], replicated: NamedSharding | None) -> Callable[..., Any]:
  def count(weights: Sequence[jax.Array]) -> list[tuple[Count, ...]]:
    predicates = [(~keys.is_zero(weight), keys.is_nonfinite(weight)) for weight in weights]
    return [tuple(matrices.count_each(list(hits), p)) for p, hits in zip(parameters, predicates)]

  everywhere: Any = jax.P()
  out_specs = lambda: [(Count(everywhere, everywhere),) * 2 for _ in parameters]
  return jax.jit(functools.partial(meshes.by_partitioner, count, out_specs), out_shardings=replicated)
