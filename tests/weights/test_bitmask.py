"""The bitmask format, byte for byte."""

from hypothesis import given
from hypothesis import strategies as st
import ml_dtypes
import numpy as np
import pytest

from maxtext_sparse.weights import bitmask
from maxtext_sparse.weights.safetensors import DamagedFileError

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def matrix(rows, cols, density, seed=0, dtype=np.float32):
  generator = np.random.default_rng(seed)
  return (generator.normal(size=(rows, cols)) * (generator.random((rows, cols)) < density)).astype(dtype)


def test_the_documented_example():
  fields = bitmask.pack(np.array([[0, 1.5, 0, 0, 0, 0, 0, 0, -2, 0]], np.float32))
  assert fields["bitmask"].tolist() == [[0b00000010, 0b00000001]]
  assert fields["compressed"].tolist() == [1.5, -2.0]
  assert fields["row_offsets"].tolist() == [0, 2]
  assert fields["shape"].tolist() == [1, 10]
  assert {name: array.dtype.name for name, array in fields.items()} == {
    "shape": "int64",
    "row_offsets": "int64",
    "compressed": "float32",
    "bitmask": "uint8",
  }


@given(st.integers(1, 20), st.integers(1, 40), st.sampled_from([0, 0.2, 1]), st.integers(0, 99), st.sampled_from(DTYPES))
def test_unpacking_gives_the_matrix_back(rows, cols, density, seed, dtype):
  original = matrix(rows, cols, density, seed, dtype)
  for fields in (bitmask.pack(original), bitmask.decompress(bitmask.compress(bitmask.pack(original)), original.dtype)):
    restored = bitmask.unpack(fields)
    assert restored.dtype == original.dtype
    np.testing.assert_array_equal(restored, original)


def test_a_negative_zero_is_a_zero():
  assert bitmask.pack(np.array([[-0.0, 1.0]]))["compressed"].tolist() == [1.0]


@pytest.mark.parametrize(("sparsity", "plain", "packed"), [(0.7, 0.3625, 0.27), (0.8, 0.2625, 0.19)])
def test_sizes_on_a_random_mask_in_bfloat16(sparsity, plain, packed):
  original = matrix(1024, 1024, 1 - sparsity, dtype=ml_dtypes.bfloat16)
  fields = bitmask.pack(original)
  size = lambda fields: sum(array.nbytes for array in fields.values()) / original.nbytes
  # 1 bit and (1 - S) x 16 bits a weight, plus 8 bytes a row.
  assert size(fields) == pytest.approx(plain + 8 / 2048, abs=2e-3)
  assert size(bitmask.compress(fields)) < packed + 8 / 2048


def test_fields_that_contradict_each_other_are_refused():
  fields = bitmask.pack(matrix(4, 9, 0.5))
  with pytest.raises(ValueError, match="do not fit"):
    bitmask.unpack({**fields, "bitmask": fields["bitmask"] ^ 1})


def test_a_damaged_frame_is_refused():
  fields = bitmask.compress(bitmask.pack(matrix(4, 9, 0.5)))
  planes = fields["planes"].copy()
  planes[0] ^= 255
  with pytest.raises(DamagedFileError, match="zstd"):
    bitmask.decompress({**fields, "planes": planes}, np.dtype(np.float32))
