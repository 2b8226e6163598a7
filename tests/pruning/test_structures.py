"""Which weights of a group are protected, and the keys of blocks, against numpy that sorts and loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.pruning import keys
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.pruning.structures import block_keys, block_parameter, check_fits, expand_blocks, protected
from maxtext_sparse.rules import Block, NOfM

pytestmark = pytest.mark.usefixtures("strict_promotion")

# Layers scanned along the middle axis, and an output projection, whose groups lie along the second of its two inputs.
PARAMETERS = (Parameter("mlp/wi/kernel", (16, 2, 6), (1,)), Parameter("attention/out/kernel", (3, 16, 4)))
N_OF_M = ((1, 2), (2, 4), (1, 4), (3, 4), (4, 8), (2, 8), (7, 8), (1, 16))


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: p.path)
@pytest.mark.parametrize(("n", "m"), N_OF_M)
def test_the_n_best_of_every_group_along_the_contraction_axis_are_protected(parameter, n, m):
  rng = np.random.default_rng(m)
  # Few different ranks, so that many are decided by the hash.
  ranks = rng.integers(1, 4, parameter.shape).astype(np.int32)
  tiebreak = rng.permutation(ranks.size).reshape(parameter.shape).astype(np.int32)
  axis = parameter.contraction_axes[-1]
  rows = lambda array: np.moveaxis(array, axis, -1).reshape(-1, m)
  expected = np.zeros_like(rows(ranks), bool)
  for row, (group, hashes) in enumerate(zip(rows(ranks), rows(tiebreak))):
    expected[row, np.lexsort((hashes, group))[-n:]] = True
  ours = protected(jnp.asarray(ranks), jnp.asarray(tiebreak), NOfM(n, m), parameter)
  np.testing.assert_array_equal(rows(np.asarray(ours)), expected)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: p.path)
@pytest.mark.parametrize("structure", [Block(4, 2), Block(1, 2), Block(16, 1)], ids=str)
def test_a_block_ranks_by_its_norm_and_is_dead_where_all_its_weights_are(parameter, structure):
  weight = np.random.default_rng(0).normal(size=parameter.shape).astype(np.float32)
  weight[np.random.default_rng(1).random(parameter.shape) < 0.4] = 0.0
  ranks = np.asarray(block_keys(jnp.asarray(weight), jnp.abs(weight), structure, parameter))
  blocks = block_parameter(structure, parameter)
  assert ranks.shape == blocks.shape and blocks.size * structure.size == parameter.size
  norms = np.empty(blocks.shape)
  for index in np.ndindex(*blocks.shape):
    scale = [parameter.shape[axis] // size for axis, size in enumerate(blocks.shape)]
    norms[index] = np.linalg.norm(weight[tuple(slice(i * s, (i + 1) * s) for i, s in zip(index, scale))])
  np.testing.assert_array_equal(ranks == 0, norms == 0)
  # Scores are rounded to 12 bits below the largest of their matrix before they are squared.
  np.testing.assert_allclose(ranks.view(np.float32)[norms > 0], norms[norms > 0], rtol=1e-3, atol=4e-3)


def test_a_block_with_a_weight_that_is_not_finite_has_the_largest_key():
  weight = np.ones((16, 2, 6), np.float32)
  weight[5, 1, 3] = np.nan
  ranks = np.asarray(block_keys(jnp.asarray(weight), jnp.abs(weight), Block(4, 2), PARAMETERS[0]))
  assert [tuple(index) for index in np.argwhere(ranks == keys.INFINITY)] == [(1, 1, 1)]


def test_a_block_is_spread_over_its_weights():
  keep = np.zeros((4, 2, 3), bool)
  keep[1, 0, 2] = True
  spread = np.asarray(expand_blocks(jnp.asarray(keep), Block(4, 2), PARAMETERS[0]))
  assert spread.sum() == 8 and spread[4:8, 0, 4:6].all()


@pytest.mark.parametrize(
  ("structure", "reason"),
  [
    (NOfM(3, 5), "pruning_structure=3:5: 5 does not divide the 16 weights along the contraction axis of attention/out"),
    (Block(3, 2), "pruning_structure=block:3x2: 3 does not divide the 16 weights along the contraction axis"),
    (Block(2, 3), "pruning_structure=block:2x3: 3 does not divide the 4 weights along the output axis"),
  ],
  ids=str,
)
def test_what_does_not_divide_a_matrix_is_refused_by_name(structure, reason):
  check_fits(NOfM(2, 4), PARAMETERS[1])
  with pytest.raises(ConfigError, match=f"^{reason}"):
    check_fits(structure, PARAMETERS[1])
