"""Packed matrices are read from safetensors files without a copy; damaged files are refused by name."""

import json

import numpy as np
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inference.bitmask_file import read_tensors, WeightFiles
from maxtext_sparse.inference.matrix import PackedMatrix
from tests.inference.cases import check_product, draw_vectors, draw_weights
from tests.inference.writing import packed_parts, write_safetensors

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def parts():
  return packed_parts(NAME, PackedMatrix.pack(draw_weights(20, 70, 0.3, seed=0), "bf16"))


def opened(folder, tensors):
  write_safetensors(folder / "model.safetensors", tensors)
  return WeightFiles(folder)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_matrix_comes_back_as_it_was_written(tmp_path, dtype):
  weights = draw_weights(20, 70, 0.3, seed=0)
  written = PackedMatrix.pack(weights, dtype)
  norm = ("F32", np.arange(5, dtype=np.float32))
  files = opened(tmp_path, packed_parts(NAME, written) | {"model.norm.weight": norm})
  assert files.packed == [NAME] and files.dense == ["model.norm.weight"]
  matrix = files.matrix(NAME)
  assert (matrix.shape, matrix.dtype) == ((20, 70), dtype)
  np.testing.assert_array_equal(matrix.expand(), written.expand())
  np.testing.assert_array_equal(files.tensor("model.norm.weight")[1], norm[1])
  check_product(matrix, draw_vectors(2, 70, seed=1))


def test_matrices_of_several_files_are_found(tmp_path, parts):
  write_safetensors(tmp_path / "a.safetensors", parts)
  write_safetensors(tmp_path / "b.safetensors", {key.replace("layers.0", "layers.1"): v for key, v in parts.items()})
  assert len(WeightFiles(tmp_path).packed) == 2


def test_the_arrays_lie_in_the_file_and_no_copy_is_made(tmp_path, parts):
  matrix = opened(tmp_path, parts).matrix(NAME)
  for array in (matrix.values, matrix.bitmask, matrix.row_offsets):
    owner = array
    while isinstance(owner.base, np.ndarray):
      owner = owner.base
    assert isinstance(owner, np.memmap)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_safetensors_library_reads_what_these_tests_write(tmp_path, dtype):
  numpy_format = pytest.importorskip("safetensors.numpy")
  matrix = PackedMatrix.pack(draw_weights(20, 70, 0.3, seed=0), dtype)
  write_safetensors(tmp_path / "model.safetensors", packed_parts(NAME, matrix))
  read = numpy_format.load_file(tmp_path / "model.safetensors")
  np.testing.assert_array_equal(read[f"{NAME}.bitmask"], matrix.bitmask)
  assert read[f"{NAME}.compressed"].tobytes() == matrix.values.tobytes()


def test_files_of_the_safetensors_library_are_read(tmp_path):
  numpy_format = pytest.importorskip("safetensors.numpy")
  matrix = PackedMatrix.pack(draw_weights(20, 70, 0.3, seed=0))
  arrays = {name: np.ascontiguousarray(array) for name, (_, array) in packed_parts(NAME, matrix).items()}
  numpy_format.save_file(arrays, tmp_path / "model.safetensors")
  np.testing.assert_array_equal(WeightFiles(tmp_path).matrix(NAME).expand(), matrix.expand())


@pytest.mark.parametrize("num_bytes", [0, 5, 8, 100, -1, -1000])
def test_a_truncated_file_is_refused(tmp_path, parts, num_bytes):
  path = tmp_path / "model.safetensors"
  write_safetensors(path, parts)
  path.write_bytes(path.read_bytes()[:num_bytes])
  with pytest.raises(ConfigError, match=r"model\.safetensors: .*(truncated|not a valid)"):
    WeightFiles(tmp_path)


def rewritten_header(path, change):
  content = path.read_bytes()
  length = int.from_bytes(content[:8], "little")
  header = json.loads(content[8 : 8 + length])
  change(header[f"{NAME}.bitmask"])
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize(
  "change",
  [
    lambda entry: entry.update(shape=[20, 8]),
    lambda entry: entry.update(shape=[-20, -9]),
    lambda entry: entry.update(data_offsets=[0, 10**12]),
    lambda entry: entry.update(data_offsets=[-180, 0]),
    lambda entry: entry.update(dtype="F7"),
    lambda entry: entry.pop("dtype"),
  ],
)
def test_a_header_that_does_not_fit_the_file_is_refused(tmp_path, parts, change):
  path = tmp_path / "model.safetensors"
  write_safetensors(path, parts)
  rewritten_header(path, change)
  with pytest.raises(ConfigError, match=r"model\.safetensors: not a valid safetensors file"):
    read_tensors(path)


def flip_a_bit(parts):
  kind, bitmask = parts[f"{NAME}.bitmask"]
  bitmask = bitmask.copy()
  bitmask[7, 3] ^= 1
  return {f"{NAME}.bitmask": (kind, bitmask)}


@pytest.mark.parametrize(
  "change, message",
  [
    (flip_a_bit, "bitmask of row 7 has"),
    (lambda parts: {f"{NAME}.compressed": ("BF16", parts[f"{NAME}.compressed"][1][:-1])}, "must go from 0 to the"),
    (lambda parts: {f"{NAME}.compressed": ("I64", np.zeros(3, np.int64))}, "has dtype I64: must be F32 or BF16"),
    (lambda parts: {f"{NAME}.shape": ("I64", np.array([21, 70]))}, r"row_offsets is int64 of shape \(21,\)"),
    (lambda parts: {f"{NAME}.shape": ("I64", np.array([20, 10**12]))}, "bitmask is uint8"),
    (lambda parts: {f"{NAME}.shape": ("I64", np.array([20, 70, 1]))}, r"must be int64 of shape \(2,\)"),
    (lambda parts: {f"{NAME}.shape": ("I64", np.array([0, 0]))}, "must be at least one row"),
  ],
)
def test_a_matrix_whose_parts_disagree_is_refused_by_name(tmp_path, parts, change, message):
  files = opened(tmp_path, parts | change(parts))
  with pytest.raises(ConfigError, match=f"{NAME}.*({message})"):
    files.matrix(NAME)


@pytest.mark.parametrize("part", ["compressed", "row_offsets", "shape"])
def test_a_matrix_without_one_of_its_parts_is_refused(tmp_path, parts, part):
  del parts[f"{NAME}.{part}"]
  with pytest.raises(ConfigError, match=f"{NAME}: {part} missing"):
    opened(tmp_path, parts).matrix(NAME)


def test_a_folder_without_weights_is_refused(tmp_path):
  with pytest.raises(ConfigError, match=r"no \*\.safetensors in it"):
    WeightFiles(tmp_path)
