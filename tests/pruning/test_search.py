"""How many passes the search takes, and that it ends where it should for any keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxtext_sparse.pruning.counting import split_count
from maxtext_sparse.pruning.search import Bracket, narrow

pytestmark = pytest.mark.usefixtures("strict_promotion")

LOWEST, HIGHEST = -(2**31), 2**31 - 1


def search(keys: np.ndarray, num_keep: int, low: int, last: int) -> tuple[int, int, int]:
  """Key found, how many reach it, and the passes taken."""
  passes = []
  ordered = np.sort(keys.astype(np.int64))

  def count_on_host(*candidates):
    passes.append(candidates)
    counts = [ordered.size - np.searchsorted(ordered, int(key)) for key in candidates]
    return [np.asarray([count >> 16, count & 0xFFFF], np.int32) for count in counts]

  def count_reaching(candidates):
    shape = [jax.ShapeDtypeStruct((2,), jnp.int32)] * len(candidates)
    pairs = jax.pure_callback(count_on_host, shape, *candidates)
    return [split_count(0)._replace(high=pair[0], low=pair[1]) for pair in pairs]

  reached = int((ordered >= low).sum())
  bracket = Bracket(jnp.int32(low), jnp.int32(last), split_count(reached), split_count(int((ordered > last).sum())))
  found = jax.block_until_ready(jax.jit(lambda keep: narrow(count_reaching, keep, bracket))(split_count(num_keep)))
  return int(found.low), int(found.reached.high) * 2**16 + int(found.reached.low), len(passes)


def magnitude_bits(weights: np.ndarray) -> np.ndarray:
  return np.abs(weights.astype(np.float32)).view(np.int32)


def assert_found(keys, num_keep, key, reached):
  """Exactly `num_keep` reach the key, or it is the largest that so many reach."""
  assert reached == (keys.astype(np.int64) >= key).sum()
  if reached != num_keep:
    assert reached > num_keep > (keys.astype(np.int64) > key).sum()


WEIGHTS = {
  "normal": lambda g: g.normal(0, 0.02, 1_000_000),
  "matrices of many scales": lambda g: np.concatenate([g.normal(0, s, 100_000) for s in np.geomspace(1e-3, 0.3, 10)]),
  "half pruned": lambda g: g.normal(0, 0.02, 1_000_000) * (g.random(1_000_000) < 0.5),
  "uniform": lambda g: g.uniform(-0.1, 0.1, 1_000_000),
}


@pytest.mark.parametrize(("density", "most"), [(0.99, 9), (0.4, 9), (0.2, 9), (0.01, 10)])
@pytest.mark.parametrize("draw", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_as_they_are_trained_take_seven_to_ten_passes(draw, density, most):
  keys = magnitude_bits(draw(np.random.default_rng(0)))
  keys = keys[keys > 0]
  num_keep = round(density * keys.size)
  key, reached, num_passes = search(keys, num_keep, 0x00800000, 0x7F7FFFFF)
  assert_found(keys, num_keep, key, reached)
  assert num_passes <= most


@pytest.mark.parametrize("num_keep", [1, 2, 500, 999, 1000])
@pytest.mark.parametrize(
  "draw",
  [
    lambda g: np.full(1000, 123_456_789),
    lambda g: g.choice([LOWEST, HIGHEST], 1000),
    lambda g: g.integers(LOWEST, HIGHEST, 1000),
    lambda g: LOWEST + np.floor(2.0 ** g.uniform(0, 32, 1000)).astype(np.int64) % 2**32,
    lambda g: HIGHEST - np.floor(2.0 ** g.uniform(0, 31, 1000)).astype(np.int64),
  ],
  ids=["one key", "both ends", "even", "crowded at the low end", "crowded at the high end"],
)
def test_any_keys_take_seventeen_passes_at_most(draw, num_keep):
  keys = draw(np.random.default_rng(1))
  key, reached, num_passes = search(keys, num_keep, LOWEST, HIGHEST)
  assert_found(keys, num_keep, key, reached)
  assert num_passes <= 17


@pytest.mark.parametrize("num_tied", [3, 60, 4_000])
def test_a_few_passes_decide_between_equal_weights(num_tied):
  """As many as have one magnitude among 10^8 to 10^11 weights; `preflight` counts two passes."""
  hashes = np.random.default_rng(0).integers(LOWEST, HIGHEST, num_tied, dtype=np.int32)
  for num_keep in (1, num_tied // 3, num_tied - 1):
    key, reached, num_passes = search(hashes, num_keep, LOWEST, HIGHEST)
    assert_found(hashes, num_keep, key, reached)
    assert num_passes <= 6
