"""The same model in the forms that a comparison runs: dense in three dtypes, torch's CSR, and ours."""

from collections.abc import Callable, Sequence
from pathlib import Path
import warnings

import torch
import transformers

from maxtext_sparse.inference.comparison import OURS
from maxtext_sparse.inference.loading import load, load_with
from maxtext_sparse.inference.matrix import PackedMatrix


class CsrLinear(torch.nn.Module):
  """A linear layer on torch's own sparse format, 32-bit indices and float32 values."""

  def __init__(self, matrix: PackedMatrix, bias: torch.Tensor | None):
    super().__init__()
    columns = matrix.with_layout("csr").columns
    assert matrix.row_offsets is not None and columns is not None
    with warnings.catch_warnings():
      # torch warns that its sparse format is in beta.
      warnings.simplefilter("ignore")
      self.weight = torch.sparse_csr_tensor(
        torch.from_numpy(matrix.row_offsets.astype("int32")),
        torch.from_numpy(columns.astype("int32")),
        torch.from_numpy(matrix.with_dtype("fp32").values.copy()),
        matrix.shape,
      )
    self.bias = bias

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = torch.mm(self.weight, x.reshape(-1, x.shape[-1]).t()).t()
    if self.bias is not None:
      y = y + self.bias
    return y.reshape(*x.shape[:-1], -1)


def make(name: str, folder: str | Path, cpus: Sequence[int]) -> transformers.PreTrainedModel:
  """A variant of a folder's model.

  Args:
    name: in `comparison.VARIANTS`. Ours have bfloat16 activations, as dense_bf16; the others float32.
    folder: as for `load`.
    cpus: the cores of our kernels' threads.

  Raises:
    ConfigError: the folder is not such a model.
  """
  if name in OURS:
    return load(folder, "int8" if name == "sparse_int8" else "bf16", torch.bfloat16, len(cpus), cpus)
  dtype = torch.bfloat16 if name == "dense_bf16" else torch.float32
  makers: dict[str, Callable[[PackedMatrix, torch.Tensor | None], torch.nn.Module]] = {
    "dense_int8": lambda matrix, bias: quantised(_dense(matrix, bias, dtype)),
    "torch_csr": CsrLinear,
  }
  usual = lambda matrix, bias: _dense(matrix, bias, dtype)
  return load_with(folder, makers.get(name, usual), dtype, map_embeddings=False)


def _dense(matrix: PackedMatrix, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.nn.Module:
  with torch.device("meta"):
    linear = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None, dtype=dtype)
  linear.weight = torch.nn.Parameter(torch.from_numpy(matrix.expand()).to(dtype), requires_grad=False)
  if bias is not None:
    linear.bias = torch.nn.Parameter(bias, requires_grad=False)
  return linear


def quantised(linear: torch.nn.Module) -> torch.nn.Module:
  """torch's int8 with activations that are quantised as they come, the fastest int8 that torch has on a CPU."""
  with warnings.catch_warnings():
    # torch warns that it will move to torchao.
    warnings.simplefilter("ignore")
    made = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(linear), {torch.nn.Linear}, dtype=torch.qint8)
  return made[0]
