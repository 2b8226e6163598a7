"""The search against numpy on any arrays: drawn shapes, mixed types, raw bit patterns, both ends."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from maxtext_sparse.pruning.counting import split_count
from tests.pruning.helpers import find_masks

# Type of the weights and of their bits.
DTYPES = [(np.float32, np.uint32), (ml_dtypes.bfloat16, np.uint16), (np.float16, np.uint16)]
SMALLEST_NORMAL = 2.0**-126
# Zeros of both signs, the smallest and largest subnormals, their normal neighbours, ones, the largest finite numbers.
EDGES = {
  np.float32: [0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x80800001, 0x3F800000, 0xFF7FFFFF],
  ml_dtypes.bfloat16: [0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x8081, 0x3F80, 0xFF7F],
  np.float16: [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x8401, 0x3C00, 0xFBFF],
}


@st.composite
def arrays(draw):
  """One array of finite weights, its elements any bit patterns, or a few that repeat."""
  dtype, bits = draw(st.sampled_from(DTYPES))
  shape = draw(st.lists(st.integers(1, 5), max_size=3))
  pattern = st.integers(0, np.iinfo(bits).max) | st.sampled_from(EDGES[dtype])
  pool = draw(st.lists(pattern, min_size=1, max_size=12))
  raw = draw(st.lists(st.sampled_from(pool), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
  weights = np.array(raw, bits).view(dtype).reshape(shape)
  return np.where(np.isfinite(weights.astype(np.float32)), weights, np.array(1.0, dtype)).astype(dtype)


@jax.jit
def search(weights, num_keep):
  cut, masks = find_masks(weights, num_keep)
  return cut.threshold[0], masks


def flat(parts) -> np.ndarray:
  return np.concatenate([np.ravel(np.asarray(part)) for part in parts])


@given(weights=st.lists(arrays(), min_size=1, max_size=3), data=st.data())
@settings(max_examples=40)
def test_the_largest_weights_survive_as_many_as_asked_for(weights, data):
  magnitudes = np.abs(flat([w.astype(np.float32) for w in weights]))
  magnitudes = np.where(magnitudes < SMALLEST_NORMAL, 0, magnitudes)
  num_nonzero = np.count_nonzero(magnitudes)
  ends = [0, 1, num_nonzero - 1, num_nonzero, magnitudes.size]
  drawn = data.draw(st.integers(0, magnitudes.size), label="num_keep")
  placed = [jnp.asarray(w) for w in weights]
  for num_keep in sorted({k for k in ends if 0 <= k <= magnitudes.size} | {drawn}):
    threshold, masks = search(placed, split_count(num_keep))
    mask = flat(masks)
    assert mask.sum() == min(num_keep, num_nonzero)
    ranked = np.sort(magnitudes)[::-1]
    np.testing.assert_array_equal(np.sort(magnitudes[mask])[::-1], ranked[: mask.sum()])
    if 0 < num_keep < num_nonzero:
      assert np.partition(magnitudes, -num_keep - 1)[-num_keep - 1] <= threshold <= ranked[num_keep - 1]
