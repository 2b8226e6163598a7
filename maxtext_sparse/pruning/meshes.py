"""Meshes of explicit axes, MaxText's `shard_mode: explicit`.

There jax refuses operations whose result could be sharded in several ways: to split a sharded axis into blocks, or to
list the stacked experts of an array in a vector. On other meshes XLA's partitioner decides, and so it does in
`by_partitioner`.
"""

from collections.abc import Callable
import contextlib
from typing import Any

import jax
from jax.sharding import AxisType


def is_explicit(mesh: Any) -> bool:
  """Whether a mesh has explicit axes."""
  return any(kind == AxisType.Explicit for kind in mesh.axis_types)


def by_partitioner(function: Callable[..., Any], out_specs: Callable[[], Any], *arguments: Any) -> Any:
  """`function(*arguments)`, traced as on a mesh without explicit axes.

  Args:
    function: must not refer to arrays other than its arguments.
    out_specs: gives a tree of the results' PartitionSpecs; called on meshes of explicit axes only.
    *arguments: trees of arrays.
  """
  if not is_explicit(jax.sharding.get_abstract_mesh()):
    return function(*arguments)
  return jax.sharding.auto_axes(function, out_sharding=out_specs())(*arguments)


def current_if_explicit(mesh: Any) -> contextlib.AbstractContextManager[Any]:
  """Makes a mesh of explicit axes the current one for a with block, and does nothing for other meshes."""
  return jax.set_mesh(mesh) if mesh is not None and is_explicit(mesh) else contextlib.nullcontext()
