"""Packed matrices multiply as numpy does: any shape, density, dtype, layout, number of vectors and threads, on each
instruction set of this processor."""

import dataclasses
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
import ml_dtypes
import numpy as np
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inference import library
from maxtext_sparse.inference.matrix import DTYPES, LAYOUTS, PackedMatrix, to_float32
from maxtext_sparse.weights import bitmask
from tests.inference.cases import check_product, DENSITIES, draw_vectors, draw_weights, supported_isas

ISAS = supported_isas()
COLUMNS = st.integers(1, 200) | st.sampled_from([256, 1000, 4096, 5000])


def packed(rows=8, cols=70, density=0.3, dtype="fp32", seed=0):
  return PackedMatrix.pack(draw_weights(rows, cols, density, seed), dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@given(
  rows=st.integers(1, 40),
  cols=COLUMNS,
  density=st.sampled_from(DENSITIES) | st.floats(0, 1),
  layout=st.sampled_from(LAYOUTS),
  num_tokens=st.integers(1, 17),
  num_threads=st.integers(1, 3),
  seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_products_are_those_of_numpy(isa, dtype, rows, cols, density, layout, num_tokens, num_threads, seed):
  library.use_isa(isa)
  library.set_threads(num_threads, cpus=[0, 0, 0])
  matrix = packed(rows, cols, density, dtype, seed).with_layout(layout)
  check_product(matrix, draw_vectors(num_tokens, cols, seed))


@pytest.mark.parametrize("layout", ["bitmask", "dense"])
@given(rows=st.integers(1, 20), cols=COLUMNS, density=st.floats(0, 1), num_tokens=st.integers(1, 9))
@settings(max_examples=30)
def test_int8_gives_the_same_bits_on_every_instruction_set_and_with_any_threads(layout, rows, cols, density, num_tokens):
  matrix = packed(rows, cols, density, "int8").with_layout(layout)
  x = draw_vectors(num_tokens, cols, seed=3)
  products = []
  for isa in ISAS:
    for num_threads in (1, 2):
      library.use_isa(isa)
      library.set_threads(num_threads, cpus=[0, 0])
      products.append(matrix.multiply(x))
  for product in products[1:]:
    np.testing.assert_array_equal(product, products[0])


@given(rows=st.integers(1, 30), cols=COLUMNS, density=st.floats(0, 1), layout=st.sampled_from(LAYOUTS))
def test_expansion_gives_the_weights_back(rows, cols, density, layout):
  weights = draw_weights(rows, cols, density, seed=5)
  np.testing.assert_array_equal(PackedMatrix.pack(weights).with_layout(layout).expand(), weights)
  rounded = PackedMatrix.pack(weights, "bf16").with_layout(layout)
  np.testing.assert_array_equal(rounded.expand(), weights.astype(ml_dtypes.bfloat16).astype(np.float32))
  np.testing.assert_array_equal(to_float32(rounded.expand(dtype="bf16")), rounded.expand())
  begin = rows // 3
  np.testing.assert_array_equal(rounded.expand(begin, rows), rounded.expand()[begin:])


def test_int8_is_the_nearest_of_255_steps_of_the_row():
  matrix = PackedMatrix.pack(np.array([[0, 1.0, -0.5, 0.25], [0, 0, 0, 0], [0, 0, 3e-3, 1e-3]], np.float32), "int8")
  assert matrix.values.tolist() == [127, -64, 32, 127, 42]  # 63.5 rounds to even
  np.testing.assert_allclose(matrix.scales, [1 / 127, 0, 3e-3 / 127], rtol=1e-6)


def test_zeros_of_both_signs_are_left_out():
  weights = np.array([[0.0, -0.0, 2.0, -3.0]], np.float32)
  assert PackedMatrix.pack(weights).values.tolist() == [2.0, -3.0]
  assert PackedMatrix.pack(weights.astype(ml_dtypes.bfloat16)).values.size == 2


def test_bytes_are_one_bit_a_weight_and_the_values():
  matrix = packed(64, 800, 0.2, "bf16")
  assert matrix.num_bytes == 64 * 100 + 2 * matrix.values.size + 8 * 65


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_gives_no_finite_sum_and_leaves_the_others_alone(isa, dtype, bad):
  library.use_isa(isa)
  matrix = packed(density=1.0, dtype=dtype)
  x = draw_vectors(3, 70, seed=0)
  usual = matrix.multiply(x)
  x[1, 5] = bad
  product = matrix.multiply(x)
  assert not np.isfinite(product[1, 1:]).any()
  np.testing.assert_array_equal(product[[0, 2]], usual[[0, 2]])


def test_several_python_threads_may_multiply_at_once():
  library.set_threads(2, cpus=[0, 0])
  matrices = [packed(60, 300, 0.3, "bf16", seed) for seed in range(4)]
  x = draw_vectors(2, 300, seed=9)
  usual = [matrix.multiply(x) for matrix in matrices]
  wrong = []

  def work(index):
    for _ in range(200):
      if not np.array_equal(matrices[index].multiply(x), usual[index]):
        wrong.append(index)

  threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong


def broken(part, change):
  """Replaces one array of a bitmask matrix by what `change` makes of a copy of it."""
  matrix = packed(cols=70)
  array = getattr(matrix, part).copy()
  return dataclasses.replace(matrix, **{part: change(array)})


def set_item(index, value):
  def change(array):
    array[index] = value
    return array

  return change


@pytest.mark.parametrize(
  "part, change, message",
  [
    ("bitmask", lambda a: a ^ np.uint8(a.shape[0] == 8), "bitmask of row 0 has .* bits set: must be"),
    ("bitmask", lambda a: a[:, :-1], r"bitmask is uint8 of shape \(8, 8\): must be uint8 of shape \(8, 9\)"),
    ("bitmask", lambda a: a.astype(np.int8), "bitmask is int8"),
    ("row_offsets", set_item(0, 1), "row_offsets go from 1 to"),
    ("row_offsets", set_item(3, -5), "row_offsets fall after row 2: must ascend"),
    ("row_offsets", lambda a: a[:-1], r"row_offsets is int64 of shape \(8,\)"),
    ("row_offsets", lambda a: a.astype(np.int32), "row_offsets is int32"),
    ("values", lambda a: a[:-3], "must go from 0 to the"),
    ("values", lambda a: a.astype(np.float64), "values is float64"),
  ],
)
def test_parts_that_contradict_each_other_are_refused(part, change, message):
  with pytest.raises(ConfigError, match=message):
    broken(part, change)


def test_bits_beyond_the_last_column_are_refused():
  matrix = packed(rows=1, cols=4, density=1.0)
  with pytest.raises(ConfigError, match="bitmask has bits set beyond column 3"):
    dataclasses.replace(matrix, bitmask=np.array([[0b1110_0001]], np.uint8))


def test_columns_beyond_the_last_are_refused():
  matrix = packed().with_layout("csr")
  with pytest.raises(ConfigError, match="columns reach 70: must be below 70"):
    dataclasses.replace(matrix, columns=np.full_like(matrix.columns, 70))


@pytest.mark.parametrize("layout, dtype", [("csr", "fp32"), ("bitmask", "int8")])
def test_more_columns_than_16_bits_count_are_refused_where_16_bits_count_them(layout, dtype):
  wide = PackedMatrix.pack(draw_weights(2, 65_537, 0.01, seed=0))
  check_product(wide, draw_vectors(1, 65_537, seed=0))
  with pytest.raises(ConfigError, match="at most 65536 columns"):
    wide.with_dtype(dtype).with_layout(layout)


def test_vectors_of_another_length_are_refused():
  with pytest.raises(ConfigError, match=r"x has shape \(1, 69\): must be \(tokens, 70\)"):
    packed().multiply(np.zeros((1, 69), np.float32))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_fields_of_a_bitmask_file_are_taken_as_they_are(dtype):
  weights = draw_weights(9, 21, 0.4, seed=2).astype(dtype)
  fields = bitmask.pack(weights)
  matrix = PackedMatrix.from_fields(fields)
  np.testing.assert_array_equal(matrix.expand(), weights.astype(np.float32))
  assert np.shares_memory(matrix.values, fields["compressed"]) and np.shares_memory(matrix.bitmask, fields["bitmask"])


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("shape", np.array([9, 21, 1]), r"shape is int64 of shape \(3,\): must be int64 of shape \(2,\)"),
    ("shape", np.array([9, 10**12]), r"bitmask is uint8 of shape \(9, 3\)"),
    ("shape", np.array([0, 21]), "must be at least one row"),
    ("shape", np.array([9.0, 21.0]), "shape is float64"),
    ("compressed", np.zeros(3, np.float16), "values are float16: must be float32 or bfloat16"),
  ],
)
def test_fields_that_describe_no_matrix_are_refused(field, value, message):
  fields = bitmask.pack(draw_weights(9, 21, 0.4, seed=2))
  with pytest.raises(ConfigError, match=message):
    PackedMatrix.from_fields(fields | {field: value})
