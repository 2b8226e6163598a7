"""Writes safetensors files byte by byte, bfloat16 included, so that tests can damage them."""

import json

import numpy as np

_KINDS = {"float32": "F32", "uint16": "BF16", "uint8": "U8", "int64": "I64"}


def packed_parts(name, matrix):
  """Tensor name -> (safetensors dtype, array) of a packed matrix, as `export --format bitmask` lays it out."""
  parts = {
    "bitmask": matrix.bitmask,
    "compressed": matrix.values,
    "row_offsets": matrix.row_offsets,
    "shape": np.array(matrix.shape, np.int64),
  }
  return {f"{name}.{part}": (_KINDS[str(array.dtype)], array) for part, array in parts.items()}


def write_safetensors(path, tensors):
  """Writes name -> (safetensors dtype, array), the widest types first, so that all are aligned."""
  header, begin, data = {}, 0, []
  for name, (kind, array) in sorted(tensors.items(), key=lambda item: -item[1][1].dtype.itemsize):
    end = begin + array.nbytes
    header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
    data.append(array.tobytes())
    begin = end
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))
