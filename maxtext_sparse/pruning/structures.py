"""Structures: in which shape weights go.

n:m    In each group of m neighbours along the contraction axis, the n best are protected. The others go first, by rank,
       so that the density falls on schedule to n/m. After the last event only protected weights are left.
block  Whole blocks of R rows (contraction) and C columns (output) are ranked by their norm, live or go together.

The contraction axis is the one that a product with activations sums over. `query` (emb, heads, head_dim) has it first.
`out` (heads, head_dim, emb) sums over two axes, and the inner one, head_dim, is grouped: no group spans two heads.
"""

import jax
from jax import lax
import jax.numpy as jnp

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.pruning import keys, scores
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.rules import Block, NOfM, Structure


def check_fits(structure: Structure, parameter: Parameter) -> None:
  """Raises ConfigError if groups or blocks do not divide the parameter's matrices, naming it."""
  units = {"contraction": structure.m if isinstance(structure, NOfM) else structure.rows}
  units |= {"output": structure.columns} if isinstance(structure, Block) else {}
  axes = {"contraction": parameter.contraction_axes[-1], "output": parameter.output_axes[-1]}
  for name, unit in units.items():
    size = parameter.shape[axes[name]]
    if size % unit:
      raise ConfigError(
        f"pruning_structure={structure}: {unit} does not divide the {size} weights along the {name} axis of "
        f"{parameter.path}; leave it dense with prune_exclude, or choose another structure"
      )


def protected(ranks: jax.Array, tiebreak: jax.Array, structure: NOfM, parameter: Parameter) -> jax.Array:
  """bool, True for the n best of each group of m.

  The rank of a weight is the number of weights of its group that beat it: m comparisons with one slice each, no sort.

  Args:
    ranks: int32 keys of the parameter's shape.
    tiebreak: int32 hashes of the same shape, by which equal keys are ordered.
    structure: n and m.
    parameter: whose contraction axis is grouped.
  """
  axis = parameter.contraction_axes[-1]
  split = (*ranks.shape[:axis], ranks.shape[axis] // structure.m, structure.m, *ranks.shape[axis + 1 :])
  grouped, hashes = ranks.reshape(split), tiebreak.reshape(split)
  num_better = jnp.zeros(split, jnp.int32)
  for member in range(structure.m):
    # One weight of each group, broadcast against all of them. It does not beat itself.
    other = lax.slice_in_dim(grouped, member, member + 1, axis=axis + 1)
    other_hash = lax.slice_in_dim(hashes, member, member + 1, axis=axis + 1)
    num_better += ((other > grouped) | ((other == grouped) & (other_hash > hashes))).astype(jnp.int32)
  return (num_better < structure.n).reshape(ranks.shape)


def block_parameter(structure: Block, parameter: Parameter) -> Parameter:
  """The array of blocks: the parameter's shape with R rows and C columns in one."""
  shape = list(parameter.shape)
  shape[parameter.contraction_axes[-1]] //= structure.rows
  shape[parameter.output_axes[-1]] //= structure.columns
  return Parameter(parameter.path, tuple(shape), parameter.stack_axes)


def block_keys(weight: jax.Array, score: jax.Array, structure: Block, parameter: Parameter) -> jax.Array:
  """int32 key of each block, of `block_parameter`'s shape: by its norm, 0 where all its weights are zero.

  INFINITY where a weight of the block is not finite.
  """
  split, within = _split(structure, parameter)
  norms = scores.block_norms(jnp.where(keys.is_zero(weight), 0.0, score), parameter, split, within)
  shape = block_parameter(structure, parameter).shape
  any_of = lambda bools: jnp.any(bools.reshape(split), axis=within).reshape(shape)
  ranks = jnp.clip(keys.bits_of(norms), keys.SMALLEST_NORMAL, keys.INFINITY - 1)
  ranks = jnp.where(any_of(keys.is_nonfinite(weight)), keys.INFINITY, ranks)
  return jnp.where(any_of(~keys.is_zero(weight)), ranks, jnp.int32(0))


def expand_blocks(keep_block: jax.Array, structure: Block, parameter: Parameter) -> jax.Array:
  """A bool for each block, repeated for each of its weights."""
  split, within = _split(structure, parameter)
  one_each = [1 if axis in within else size for axis, size in enumerate(split)]
  return jnp.broadcast_to(keep_block.reshape(one_each), split).reshape(parameter.shape)


def _split(structure: Block, parameter: Parameter) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The array's shape with both blocked axes split, (K / R, R) and (N / C, C), and the positions of R and C in it."""
  units = {parameter.contraction_axes[-1]: structure.rows, parameter.output_axes[-1]: structure.columns}
  split: list[int] = []
  within: list[int] = []
  for axis, size in enumerate(parameter.shape):
    split.append(size // units.get(axis, 1))
    if axis in units:
      within.append(len(split))
      split.append(units[axis])
  return tuple(split), tuple(within)
