"""Text generation with pruned weights on a CPU: `load(FOLDER)` gives a transformers model that multiplies packed weights.

  from maxtext_sparse.inference import load
  model = load("exported", values="int8")
  model.generate(**tokenizer("Once upon a time", return_tensors="pt"), max_new_tokens=32)

`PackedMatrix` is the same without torch: numpy arrays in, numpy arrays out. Training imports nothing of this package.
"""

from typing import Any

# Name -> module of this package. torch and transformers are imported by those that need them only.
_EXPORTED = {
  "PackedMatrix": "matrix",
  "SparseLinear": "linear",
  "calibrate": "calibration",
  "load": "loading",
  "set_threads": "library",
}
__all__ = sorted(_EXPORTED)


def __getattr__(name: str) -> Any:
  if name not in _EXPORTED:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  import importlib

  return getattr(importlib.import_module(f"{__name__}.{_EXPORTED[name]}"), name)
