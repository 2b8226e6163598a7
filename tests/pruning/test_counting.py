"""Exact counts beyond float32's 2^24 and int32's 2^31, with 32-bit integers only."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxtext_sparse.pruning import keys
from maxtext_sparse.pruning.counting import at_least, Count, count_true, reduced_axes, split_count, sum_counts

pytestmark = pytest.mark.usefixtures("strict_promotion")

INT32_MAX = 2**31 - 1


def integer(count: Count) -> int:
  return int(count.high) * 2**16 + int(count.low)


def test_these_tests_run_without_64_bit_integers():
  assert not jax.config.jax_enable_x64


# --- Count ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 2**16 - 1, 2**16, 2**24 + 1, 2**31 - 1, 2**31, 2**32 + 5, 10**12 + 7, 2**47 - 1])
def test_a_count_holds_any_integer_below_2_to_the_47(value):
  count = split_count(value)
  assert integer(count) == value
  assert 0 <= int(count.low) < 2**16
  assert count.high.dtype == count.low.dtype == jnp.int32


@given(a=st.integers(0, 2**46), difference=st.integers(-(2**17), 2**17))
def test_counts_compare_like_integers(a, difference):
  b = max(0, a + difference)
  assert bool(at_least(split_count(a), split_count(b))) == (a >= b)
  assert bool(at_least(split_count(b), split_count(a))) == (b >= a)


def test_counts_compare_elementwise():
  counts = Count(jnp.array([0, 1, 1, 2]), jnp.array([9, 4, 5, 0]))
  assert at_least(counts, Count(jnp.int32(1), jnp.int32(5))).tolist() == [False, False, True, True]


partial_counts = st.lists(st.integers(0, INT32_MAX) | st.integers(INT32_MAX - 9, INT32_MAX), min_size=1, max_size=50)


@given(leaves=st.lists(partial_counts, min_size=1, max_size=5))
def test_partial_counts_add_up_like_python_integers(leaves):
  total = sum_counts([jnp.array(leaf, jnp.int32) for leaf in leaves])
  assert integer(total) == sum(map(sum, leaves))
  assert 0 <= int(total.low) < 2**16


def test_thirty_thousand_full_partial_counts_add_up():
  # 6.4e13: 16,384 partial counts in a matrix of their own and 16,383 scalars' worth in another, each at the int32 limit.
  partials = [jnp.full((128, 128), INT32_MAX), jnp.full((16_383,), INT32_MAX)]
  assert integer(sum_counts(partials)) == (2**14 + 16_383) * INT32_MAX


def test_too_many_partial_counts_are_refused_rather_than_overflowing():
  with pytest.raises(AssertionError, match="too many partial counts"):
    sum_counts([jnp.ones((2**15,), jnp.int32)])


def test_scalars_and_arrays_of_partial_counts_mix():
  partials = [jnp.int32(5), jnp.array([[1, 2], [3, 4]], jnp.int32), jnp.int32(2**30)]
  assert integer(sum_counts(partials)) == 15 + 2**30


# --- reduced_axes -----------------------------------------------------------------------------------------------------


def num_partials(shape, keep=()) -> int:
  axes = reduced_axes(shape, keep)
  return math.prod(size for axis, size in enumerate(shape) if axis not in axes)


shapes = st.lists(st.integers(1, 2**20), max_size=6).filter(lambda shape: math.prod(shape) <= 10**12)


@given(shape=shapes, data=st.data())
@settings(max_examples=500)
def test_sums_over_the_reduced_axes_always_fit_int32(shape, data):
  keep = data.draw(st.sets(st.sampled_from(range(len(shape))))) if shape else ()
  axes = reduced_axes(shape, keep)
  assert math.prod(shape[axis] for axis in axes) < 2**31
  assert not set(axes) & set(keep)
  assert list(axes) == sorted(set(axes))


@pytest.mark.parametrize(
  "shape, expected",
  [
    ((), ()),
    ((2**31 - 1,), (0,)),
    ((32_000, 2_048), (0, 1)),
    ((46_340, 46_340), (0, 1)),
    ((2_048, 16, 8_192), (0, 1, 2)),
  ],
)
def test_arrays_below_2_to_the_31_elements_are_summed_whole(shape, expected):
  assert reduced_axes(shape) == expected


@pytest.mark.parametrize(
  "shape, partials",
  [
    ((2**16, 2**15), 2**15),  # a square matrix has no small axis
    ((16_384, 126, 53_248), 126),  # llama3.1-405b wi_0
    ((7_168, 58, 256, 2_048), 256),  # deepseek-v3 experts: an axis goes whole, and 58 are too few
    ((8, 16, 16_384, 53_248), 16 * 8),  # a 405B model in eight pipeline stages of sixteen layers
    ((2, 2, 2**30), 2 * 2),  # two small axes rather than the large one
  ],
)
def test_larger_arrays_keep_the_axes_that_leave_the_fewest_partial_counts(shape, partials):
  assert num_partials(shape) <= partials


def test_a_pipelined_405b_model_has_few_enough_partial_counts_to_add():
  mlp, attention, head = (8, 16, 16_384, 53_248), (8, 16, 16_384, 128, 128), (16_384, 128_256)
  total = 3 * num_partials(mlp) + 4 * num_partials(attention) + num_partials(head)
  assert total < 2**15


def test_kept_axes_survive():
  assert reduced_axes((3, 5, 7), keep=(1,)) == (0, 2)
  assert reduced_axes((3, 5, 7), keep=(0, 1, 2)) == ()


# --- count_true ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (7,), (5, 3), (2, 3, 4)])
@pytest.mark.parametrize("num_predicates", [1, 2, 3])
def test_each_predicate_is_counted(shape, num_predicates):
  array = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
  bounds = [-0.5, 0.0, 0.5][:num_predicates]
  counts = count_true([array > bound for bound in bounds])
  assert [int(c) for c in counts] == [int((np.asarray(array) > bound).sum()) for bound in bounds]


@pytest.mark.parametrize("keep", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_counts_over_kept_axes_come_out_per_index(keep):
  array = np.random.default_rng(1).normal(size=(4, 5, 6)).astype(np.float32)
  (counts,) = count_true([jnp.asarray(array) > 0], keep)
  axes = tuple(axis for axis in range(3) if axis not in keep)
  np.testing.assert_array_equal(counts, (array > 0).sum(axis=axes))


def test_counts_on_a_mesh_equal_those_on_one_device(mesh):
  array = np.random.default_rng(2).normal(size=(16, 8)).astype(np.float32)
  sharding = jax.NamedSharding(mesh, jax.P("fsdp", "tensor"))
  counts = jax.jit(lambda a: count_true([a > 0, a > 1]))(jax.device_put(array, sharding))
  assert [int(c) for c in counts] == [(array > 0).sum(), (array > 1).sum()]


@pytest.mark.parametrize("size", [2**24 + 1, 2**24 + 3])
def test_counts_do_not_skip_the_integers_that_float32_skips(size):
  (count,) = count_true([jnp.zeros((size,), jnp.int8) == 0])
  assert int(count) == size


def test_counts_on_a_mesh_do_not_skip_them_either(mesh):
  array = np.arange(2**24 + 8) < 7
  placed = jax.device_put(array, jax.NamedSharding(mesh, jax.P(("fsdp", "tensor"))))
  (count,) = jax.jit(lambda a: count_true([jnp.logical_not(a)]))(placed)
  assert int(count) == 2**24 + 1


# 2^32 elements made up inside the compiled loop, four bytes of memory each if they were stored.
VIRTUAL_SHAPE = (4, 2**15, 2**15)


@jax.jit
def count_virtual_keys(bounds):
  hashes = keys.tiebreak_key(VIRTUAL_SHAPE, 0)
  counts = count_true([hashes >= bounds[i] for i in range(3)])
  return [sum_counts([count]) for count in counts]


def test_a_count_over_2_to_the_32_elements_is_exact():
  # The keys are a permutation of all 32-bit integers: 2^31 - b of them are at least b.
  bounds = [-(2**31) + 1, -5, 2**24 + 1]
  counts = count_virtual_keys(jnp.array(bounds, jnp.int32))
  assert [integer(count) for count in counts] == [2**31 - bound for bound in bounds]


def test_a_count_over_2_to_the_32_elements_takes_no_memory():
  compiled = count_virtual_keys.lower(jnp.zeros((3,), jnp.int32)).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 2**20
