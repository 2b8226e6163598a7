"""A linear layer of a torch model on a packed matrix."""

from typing import Any

import torch

from maxtext_sparse.inference.matrix import Dtype, MAX_TOKENS, PackedMatrix

# Rows that are expanded at once take about this many bytes, so that they are still in the cache when they are multiplied.
_BLOCK_BYTES = 8 * 2**20
_EXPANDED_AS: dict[torch.dtype, Dtype] = {torch.float32: "fp32", torch.bfloat16: "bf16"}
# One buffer for all layers: they run one after the other.
_buffers: dict[torch.dtype, torch.Tensor] = {}


class SparseLinear(torch.nn.Module):
  """y = x W^T + b for a packed W [out_features, in_features]; for inference only, no gradient flows back.

  Up to eight vectors are multiplied by the packed weights, in float32 (int8: as integers of 16 bits). More of them are
  multiplied by torch, a few rows of W expanded at a time, in the dtype of x if that is bfloat16, else in float32.
  The result has the dtype of x.
  """

  def __init__(self, matrix: PackedMatrix, bias: torch.Tensor | None = None):
    super().__init__()
    self.matrix = matrix
    self.out_features, self.in_features = matrix.shape
    self.register_buffer("bias", bias)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    flat = x.detach().reshape(-1, self.in_features)
    y = self._few(flat) if flat.shape[0] <= MAX_TOKENS else self._many(flat)
    if self.bias is not None:
      y = y + self.bias
    return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

  def extra_repr(self) -> str:
    matrix = self.matrix
    return f"{self.in_features}, {self.out_features}, {matrix.layout} {matrix.dtype}, density {matrix.density:.3f}"

  def _few(self, x: torch.Tensor) -> torch.Tensor:
    x = x.to(torch.float32).contiguous()
    y = torch.empty(x.shape[0], self.out_features)
    self.matrix.multiply_at(x.data_ptr(), x.shape[0], y.data_ptr())
    return y

  def _many(self, x: torch.Tensor) -> torch.Tensor:
    dtype = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
    x = x.to(dtype)
    rows = max(1, min(self.out_features, _BLOCK_BYTES // (self.in_features * dtype.itemsize)))
    block = _buffer(rows * self.in_features, dtype).view(rows, self.in_features)
    y = torch.empty(x.shape[0], self.out_features, dtype=dtype)
    for begin in range(0, self.out_features, rows):
      end = min(begin + rows, self.out_features)
      self.matrix.expand_at(begin, end, block.data_ptr(), _EXPANDED_AS[dtype])
      torch.mm(x, block[: end - begin].t(), out=y[:, begin:end])
    return y


def run_short_inputs_on_one_torch_thread(model: torch.nn.Module) -> None:
  """Keeps torch's own threads asleep while a model runs on up to eight tokens.

  They would wait awake, on the cores of the kernels' threads, for work that is too small to be shared.
  """
  usual: list[int] = []

  def before(module: torch.nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    del module
    ids = arguments[0] if arguments else options.get("input_ids")
    usual.append(torch.get_num_threads())
    if isinstance(ids, torch.Tensor) and ids.numel() <= MAX_TOKENS:
      torch.set_num_threads(1)

  def after(*_: Any) -> None:
    torch.set_num_threads(usual.pop())

  model.register_forward_pre_hook(before, with_kwargs=True)
  model.register_forward_hook(after, always_call=True)


def _buffer(size: int, dtype: torch.dtype) -> torch.Tensor:
  held = _buffers.get(dtype)
  if held is None or held.numel() < size:
    held = _buffers[dtype] = torch.empty(size, dtype=dtype)
  return held[:size]
