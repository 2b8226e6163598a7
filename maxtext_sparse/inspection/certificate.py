"""`sparsity.json`: what a model folder claims to be, exact enough that anyone can recount it.

  format_version   1
  tool             who wrote it
  format           dense or bitmask; is_compressed: whether the values are packed with zstd
  dtype            safetensors name of the weights' dtype
  total            parameters, embeddings and norms included
  prunable, nonzero, density   of the linear layers' weights, all together
  structures       n:m and block:RxC that every matrix complies with
  rounded_to_zero  live weights that the dtype turned into zeros
  left_dense       linear layers' weights that were not to be pruned and are not counted, a copy of the embedding for one
  matrices[]       name, shape, nonzero, density, dead_rows, dead_columns, structures, mask_sha256 of each
  files{}          bytes and sha256 of each weight file
  training         where the model comes from: step, schedule, events, average parameters, FLOPs, tokens, loss, versions

A mask's digest is SHA-256 over its bits, row by row (rows are output features): column j is bit j % 8 of byte j // 8.
Each row is padded with zero bits to a whole byte.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

from maxtext_sparse import __version__
from maxtext_sparse.inspection.measure import common_structures, MatrixFigures, totals
from maxtext_sparse.weights.folder import CERTIFICATE_FILE
from maxtext_sparse.weights.safetensors import sha256_of

FORMAT_VERSION = 1


def certificate(
  folder: str,
  matrices: Sequence[MatrixFigures],
  *,
  weights_format: str,
  is_compressed: bool,
  dtype: str,
  total: int,
  rounded_to_zero: int,
  left_dense: Sequence[str],
  training: Mapping[str, Any],
) -> dict[str, Any]:
  """The certificate of a folder whose weight files are written.

  Args:
    folder: the model folder.
    matrices: figures of each linear layer's weight as it is stored.
    weights_format: dense or bitmask.
    is_compressed: whether values are packed with zstd.
    dtype: safetensors name of the weights' dtype.
    total: parameters of the model.
    rounded_to_zero: live weights that the conversion to `dtype` turned into zeros.
    left_dense: linear layers' weights that the run did not prune.
    training: what is known of the run.
  """
  return {
    "format_version": FORMAT_VERSION,
    "tool": f"maxtext-sparse {__version__}",
    "format": weights_format,
    "is_compressed": is_compressed,
    "dtype": dtype,
    "total": total,
    **totals(matrices),
    "structures": common_structures(matrices),
    "rounded_to_zero": rounded_to_zero,
    "left_dense": list(left_dense),
    "matrices": [matrix.to_dict() for matrix in matrices],
    "files": weight_files(folder),
    "training": dict(training),
  }


def weight_files(folder: str) -> dict[str, dict[str, Any]]:
  """Bytes and digest of each safetensors file of a folder."""
  names = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
  paths = {name: os.path.join(folder, name) for name in names}
  return {name: {"bytes": os.path.getsize(path), "sha256": sha256_of(path)} for name, path in paths.items()}


__all__ = ["CERTIFICATE_FILE", "FORMAT_VERSION", "certificate", "weight_files"]
