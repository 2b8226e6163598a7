"""Our reader and writer against the format's own library, and against damage."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from maxtext_sparse.weights.safetensors import DamagedFileError, DTYPES, TensorFile, TensorWriter

ARRAYS = {
  "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
  "b": np.arange(5, dtype=np.uint8),
  "c": np.array([[1.5, -2.0]], ml_dtypes.bfloat16),
  "d": np.array(7, np.int64),
  "e": np.zeros((0, 4), np.float16),
}


def write(folder, max_bytes=10**9, stem="model"):
  writer = TensorWriter(str(folder), stem, max_bytes, ARRAYS, {"format": "pt"})
  for name, array in ARRAYS.items():
    writer.add(name, array)
  return writer.close()


def assert_same(found, expected):
  assert found.dtype == expected.dtype and found.shape == expected.shape
  np.testing.assert_array_equal(found, expected)


def test_what_we_write_the_reference_library_reads(tmp_path):
  assert set(write(tmp_path).values()) == {"model.safetensors"}
  loaded = load_file(tmp_path / "model.safetensors")
  assert loaded.keys() == ARRAYS.keys()
  for name, array in loaded.items():
    assert_same(array, ARRAYS[name])


def test_what_the_reference_library_writes_we_read(tmp_path):
  save_file(ARRAYS, tmp_path / "x.safetensors", metadata={"k": "v"})
  file = TensorFile(str(tmp_path / "x.safetensors"))
  assert file.metadata == {"k": "v"} and file.tensors.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    assert_same(file.read(name), array)


def test_shards_close_before_the_tensor_that_would_make_them_too_large(tmp_path):
  file_of = write(tmp_path, max_bytes=53)
  assert file_of == {
    "a.weight": "model-00001-of-00002.safetensors",
    "b": "model-00001-of-00002.safetensors",
    "c": "model-00002-of-00002.safetensors",
    "d": "model-00002-of-00002.safetensors",
    "e": "model-00002-of-00002.safetensors",
  }
  for name, file in file_of.items():
    assert_same(load_file(tmp_path / file)[name], ARRAYS[name])


def test_before_close_no_file_looks_like_weights(tmp_path):
  writer = TensorWriter(str(tmp_path), "model", 10, ARRAYS, {})
  writer.add("a.weight", ARRAYS["a.weight"])
  writer.add("b", ARRAYS["b"])
  writer.abandon()
  assert not list(tmp_path.glob("*.safetensors"))


def test_every_dtype_has_the_width_that_the_format_gives_it():
  widths = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
  assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == widths


def damaged(tmp_path, change):
  write(tmp_path)
  path = tmp_path / "model.safetensors"
  content = bytearray(path.read_bytes())
  path.write_bytes(change(content))
  with pytest.raises(DamagedFileError, match=r"model\.safetensors") as error:
    TensorFile(str(path))
  assert "\n" not in str(error.value)
  return str(error.value)


def test_a_file_that_was_cut_short_is_named(tmp_path):
  assert "cut short" in damaged(tmp_path, lambda content: content[:-1])


def test_a_damaged_header_is_named(tmp_path):
  assert "header is damaged" in damaged(tmp_path, lambda content: content[:8] + b"[" + content[9:])
  assert "header is damaged" in damaged(tmp_path, lambda content: b"\xff" * 8 + content[8:])


def test_a_shape_that_contradicts_the_offsets_is_named(tmp_path):
  assert "a.weight" in damaged(tmp_path, lambda content: bytes(content).replace(b"[3,4]", b"[3,5]"))


def test_an_unknown_dtype_is_named(tmp_path):
  path = tmp_path / "model.safetensors"
  header = json.dumps({"x": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}).encode()
  path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
  with pytest.raises(DamagedFileError, match="F4"):
    TensorFile(str(path))
