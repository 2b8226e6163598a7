"""Times products with one vector, ours by density and torch's dense ones, to find where ours stops being faster."""

import time
from typing import Any

import numpy as np
import torch

from maxtext_sparse.inference.linear import SparseLinear
from maxtext_sparse.inference.matrix import PackedMatrix
from maxtext_sparse.inference.variants import quantised

DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Copies of a matrix take turns until they exceed the caches, as the layers of a model do.
_WORKING_SET_BYTES = 96 * 2**20


def product_seconds(shape: tuple[int, int], num_rounds: int) -> dict[str, Any]:
  """Median seconds of a product with one vector, all forms taking turns.

  Args:
    shape: (rows, cols) of the matrix.
    num_rounds: how often each form is measured.

  Returns:
    `densities`, and for `bf16` and `int8` of ours a list of seconds by density; for torch's `fp32`, `bf16` and `int8`
    the seconds at any density.
  """
  generator = np.random.default_rng(0)
  uniform = generator.random(shape, np.float32)
  dense = torch.from_numpy(generator.standard_normal(shape, np.float32))
  forms: dict[str, tuple[list[torch.nn.Module], torch.dtype]] = {
    "torch fp32": (_copies(lambda: _linear(dense), 4 * uniform.size), torch.float32),
    "torch bf16": (_copies(lambda: _linear(dense.bfloat16()), 2 * uniform.size), torch.bfloat16),
    "torch int8": (_copies(lambda: quantised(_linear(dense)), uniform.size), torch.float32),
  }
  for density in DENSITIES:
    packed = PackedMatrix.pack(np.where(uniform < density, dense.numpy(), np.float32(0)))
    for dtype in ("bf16", "int8"):
      matrix = packed.with_dtype(dtype)  # type: ignore[arg-type]
      copies = _copies(lambda matrix=matrix: SparseLinear(matrix.copy()), matrix.num_bytes)  # type: ignore[misc]
      forms[f"{dtype} {density}"] = (copies, torch.bfloat16)
  seconds = _measured(forms, shape[1], num_rounds)
  ours = {dtype: [seconds[f"{dtype} {density}"] for density in DENSITIES] for dtype in ("bf16", "int8")}
  return {
    "densities": list(DENSITIES),
    "ours": ours,
    "torch": {k: seconds[f"torch {k}"] for k in ("fp32", "bf16", "int8")},
  }


def _measured(
  forms: dict[str, tuple[list[torch.nn.Module], torch.dtype]], num_columns: int, num_rounds: int
) -> dict[str, float]:
  x = torch.randn(1, num_columns)
  seconds: dict[str, list[float]] = {name: [] for name in forms}
  # The first round warms up.
  for round_number in range(num_rounds + 1):
    for name, (layers, dtype) in forms.items():
      vector = x.to(dtype)
      with torch.inference_mode():
        begin = time.perf_counter()
        for layer in layers:
          layer(vector)
        taken = (time.perf_counter() - begin) / len(layers)
      if round_number:
        seconds[name].append(taken)
  return {name: float(np.median(values)) for name, values in seconds.items()}


def _copies(make: Any, num_bytes: int) -> list[torch.nn.Module]:
  return [make() for _ in range(max(2, min(16, -(-_WORKING_SET_BYTES // num_bytes))))]


def _linear(weight: torch.Tensor) -> torch.nn.Module:
  with torch.device("meta"):
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
  linear.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
  return linear
