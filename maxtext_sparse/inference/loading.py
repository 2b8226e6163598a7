"""A transformers model from a folder of weights, dense or packed, with the linear layers that the caller chooses."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import mmap
from pathlib import Path
from typing import Any
import warnings

import numpy as np
import torch
import transformers

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inference.calibration import faster_layout
from maxtext_sparse.inference.library import allowed_cpus, set_threads
from maxtext_sparse.inference.linear import run_short_inputs_on_one_torch_thread, SparseLinear
from maxtext_sparse.inference.matrix import Array, Dtype, DTYPES, Layout, PackedMatrix
from maxtext_sparse.weights.folder import ModelFolder

# What becomes of a linear layer: (packed weights, bias) -> the module that takes its place.
MakeLinear = Callable[[PackedMatrix, torch.Tensor | None], torch.nn.Module]


def load(
  folder: str | Path,
  values: Dtype = "bf16",
  dtype: torch.dtype | None = None,
  num_threads: int | None = None,
  cpus: Sequence[int] | None = None,
  layout: Layout | None = None,
) -> transformers.PreTrainedModel:
  """A causal language model whose linear layers are `SparseLinear`; `generate` works as usual.

  Example:
    model = load("exported", values="int8")
    model.generate(**tokenizer("Once upon a time", return_tensors="pt"), max_new_tokens=32)

  Args:
    folder: a Hugging Face folder of safetensors with zeros in it, or one that `export --format bitmask` wrote. The
      latter is read by mmap: weights come into memory when they are first multiplied, and are never copied
      unless `values` asks for another dtype than the file's.
    values: dtype of the packed weights: `bf16`, `fp32`, or `int8` with one scale a row.
    dtype: of the activations, float32 or bfloat16; the folder's own by default. Prompts of more than eight tokens are
      multiplied in it: bfloat16 is faster, float32 is more exact.
    num_threads: threads of the kernels, each on a core of its own; by default as many as torch has, on the cores that
      this process may use.
    cpus: the cores.
    layout: `bitmask`, `csr` or `dense` for all matrices; by default each matrix gets the fastest for its density, by
      what `calibrate` measured on this machine.

  Raises:
    ConfigError: the folder is not such a model, or a file of it is damaged; the message names it.
  """
  if values not in DTYPES:
    raise ConfigError(f"values={values}: must be {', '.join(DTYPES)}")
  cores = list(cpus or allowed_cpus())
  set_threads(num_threads or min(torch.get_num_threads(), len(cores)), cores)

  def make_linear(matrix: PackedMatrix, bias: torch.Tensor | None) -> torch.nn.Module:
    matrix = matrix.with_dtype(values)
    return SparseLinear(matrix.with_layout(layout or faster_layout(matrix)), bias)

  model = load_with(folder, make_linear, dtype or stored_dtype(folder))
  run_short_inputs_on_one_torch_thread(model)
  return model


def load_with(
  folder: str | Path, make_linear: MakeLinear, dtype: torch.dtype, map_embeddings: bool = True
) -> transformers.PreTrainedModel:
  """A causal language model of the folder with every linear layer replaced by what `make_linear` gives.

  Args:
    folder: as for `load`.
    make_linear: called once for each linear layer that has weights of its own.
    dtype: of all other parameters and of the activations.
    map_embeddings: leave untied embeddings in the file, of which a token reads one row, instead of in memory as `dtype`.
  """
  files = ModelFolder(str(folder))
  config = transformers.AutoConfig.from_pretrained(folder)
  with _parameters_without_memory():
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
  modules = dict(model.named_modules())
  is_linear = lambda name: isinstance(modules.get(name), torch.nn.Linear)
  linears = [name for name in files.names() if name.endswith(".weight") and is_linear(name.removesuffix(".weight"))]
  for name in files.names():
    if files.is_sparse(name) and name not in linears:
      raise ConfigError(f"{folder}: {name} is packed, but it is no linear layer of a {config.model_type} model")
    if name not in linears and not (name.endswith(".bias") and is_linear(name.removesuffix(".bias"))):
      _put_parameter(model, name, files.read(name), dtype, map_embeddings and not config.tie_word_embeddings)
  for name in linears:
    _replace_linear(model, name.removesuffix(".weight"), files, make_linear, dtype)
    _release_pages(files.read_fields(name).values() if files.is_sparse(name) else [files.read(name)])
  model.tie_weights()
  missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
  if missing:
    raise ConfigError(f"{folder}: {missing[0]} is in none of its files ({len(missing)} tensors missing)")
  return model.eval()


def stored_dtype(folder: str | Path) -> torch.dtype:
  """The dtype that config.json names, float32 if it names none."""
  dtype = transformers.AutoConfig.from_pretrained(folder).dtype
  return dtype if isinstance(dtype, torch.dtype) else torch.float32


def read_matrix(files: ModelFolder, name: str) -> PackedMatrix:
  """A matrix of a folder; one that the file has packed is not copied, another one is packed.

  Raises:
    ConfigError: the parts of the matrix contradict each other; the message names file and matrix.
  """
  try:
    return PackedMatrix.from_fields(files.read_fields(name))
  except KeyError as error:
    raise ConfigError(f"{files.file_of(name)}: {name}: {error} is missing") from error
  except ConfigError as error:
    raise ConfigError(f"{files.file_of(name)}: {name}: {error}") from error


def as_tensor(array: Array) -> torch.Tensor:
  """A tensor on the memory of an array of a file; it must not be written to."""
  with warnings.catch_warnings():
    # torch warns of arrays that are read-only; nobody trains these.
    warnings.simplefilter("ignore")
    if array.dtype.name == "bfloat16":
      return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(array)


def _put_parameter(model: torch.nn.Module, name: str, array: Array, dtype: torch.dtype, may_map: bool) -> None:
  parent, leaf = _parent(model, name)
  held = getattr(parent, leaf, None)
  if held is None:
    raise ConfigError(f"{name} is in a file, but the model has no such parameter")
  tensor = as_tensor(array)
  if tensor.shape != held.shape:
    raise ConfigError(f"{name} has shape {tuple(tensor.shape)}: config.json makes it {tuple(held.shape)}")
  if may_map and isinstance(parent, torch.nn.Embedding):
    parent.register_forward_hook(lambda module, arguments, output: output.to(dtype))
  else:
    tensor = tensor.to(dtype, copy=True)
  parent.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))


def _replace_linear(
  model: torch.nn.Module, name: str, files: ModelFolder, make_linear: MakeLinear, dtype: torch.dtype
) -> None:
  parent, leaf = _parent(model, name)
  linear = getattr(parent, leaf)
  matrix = read_matrix(files, f"{name}.weight")
  if matrix.shape != (linear.out_features, linear.in_features):
    made = (linear.out_features, linear.in_features)
    raise ConfigError(f"{name}.weight has shape {matrix.shape}: config.json makes it {made}")
  has_bias = f"{name}.bias" in files.names()
  setattr(parent, leaf, make_linear(matrix, as_tensor(files.read(f"{name}.bias")).to(dtype) if has_bias else None))


def _parent(model: torch.nn.Module, name: str) -> tuple[Any, str]:
  path, _, leaf = name.rpartition(".")
  try:
    return model.get_submodule(path), leaf
  except AttributeError:
    raise ConfigError(f"{name} is in a file, but the model has no {path}") from None


def _release_pages(arrays: Iterable[Array]) -> None:
  """Takes what was read of mapped files out of this process's memory; what is used again is mapped again.

  Without this, a matrix that is packed or rounded would stay in memory beside what was made of it.
  """
  for array in arrays:
    if isinstance(array, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
      array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _parameters_without_memory() -> Iterator[None]:
  """Makes new modules put their parameters on torch's meta device; buffers such as the rotary frequencies are kept."""
  original = torch.nn.Module.register_parameter

  def register(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
    original(module, name, parameter)
    if parameter is not None:
      module._parameters[name] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)

  torch.nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
  try:
    yield
  finally:
    torch.nn.Module.register_parameter = original  # type: ignore[method-assign]
