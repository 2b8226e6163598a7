"""Writes a Hugging Face folder of the llama family as a MaxText checkpoint, to train a sparse model further.

  OUT/0/items     parameters only, as MaxText's `load_parameters_path` wants them, scanned
  OUT/model.yml   a MaxText config with the model's shape and the path of its parameters

Zeros stay zeros, so `pruning_method=hold` keeps the masks. Weights are written in float32 by default, which holds float16
and bfloat16 exactly. Query weights are divided by sqrt(head_dim), see `llama.py`. Exporting the checkpoint again gives
the folder bit for bit, if the folder came from MaxText, or head_dim is a power of 4, or the folder's dtype is narrower
than float32. In other float32 folders a query weight may come back 1 ulp off: no float32 gives it by multiplication.
"""

from collections.abc import Callable, Mapping
import dataclasses
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.config_files import dump
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.export.aside import check_target, written_aside
from maxtext_sparse.export.families import TORCH_DTYPES
from maxtext_sparse.export.llama import folder_shapes, LlamaShape, maxtext_shapes, to_maxtext
from maxtext_sparse.inspection.measure import MatrixFigures, measure, totals
from maxtext_sparse.runs.files import replace_text
from maxtext_sparse.weights.folder import ModelFolder
from maxtext_sparse.weights.safetensors import DTYPES

CONFIG_FILE = "model.yml"
STEP = "0"


@dataclasses.dataclass(frozen=True)
class Import:
  """What was written: counts of the linear layers' weights, and the config to train with."""

  prunable: int
  nonzero: int
  density: float
  config: str
  checkpoint: str

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def import_folder(
  path: str,
  out: str,
  dtype: str | None = None,
  is_forced: bool = False,
  report: Callable[[int, int], None] = lambda done, total: None,
) -> Import:
  """Writes the model of a folder as a MaxText checkpoint.

  Args:
    path: the folder, dense or bitmask.
    out: the folder to write, local.
    dtype: float32 or bfloat16, float32 if None.
    is_forced: whether an earlier import is replaced.
    report: called with the number of tensors read so far and of all.

  Raises:
    ConfigError: another family, a tensor that is missing or has another shape than config.json says, or no room.
  """
  dtype = dtype or "float32"
  if dtype not in ("float32", "bfloat16"):
    raise ConfigError(f"--dtype={dtype}: must be float32 or bfloat16")
  check_target(out, is_forced, CONFIG_FILE)
  folder = ModelFolder(path)
  shape = LlamaShape.from_folder(folder.config)
  _check_tensors(folder, shape)
  numpy_dtype = DTYPES[TORCH_DTYPES[dtype]]
  num_bytes = sum(int(np.prod(size)) for size in maxtext_shapes(shape, True).values()) * numpy_dtype.itemsize
  figures: list[MatrixFigures] = []
  names = folder_shapes(shape, has_head=not shape.is_tied)
  linear = frozenset(folder.linear_names())

  def read(name: str) -> NDArray[Any]:
    array = folder.read(name)
    if name in linear:
      figures.append(measure(name, array, ()))
    report(len(figures), len(names))
    return array

  with written_aside(out, is_forced, num_bytes) as aside:
    _save(os.path.join(aside, STEP), to_maxtext(shape, read, numpy_dtype))
    items = os.path.join(os.path.abspath(out), STEP, "items")
    replace_text(os.path.join(aside, CONFIG_FILE), dump(config_keys(shape, dtype, items)))
  return Import(**totals(figures), config=os.path.join(out, CONFIG_FILE), checkpoint=items)


def config_keys(shape: LlamaShape, dtype: str, items: str) -> dict[str, Any]:
  """The MaxText keys that make the model and load its parameters."""
  return {
    "base_config": "base.yml",
    "decoder_block": "llama2",
    "mlp_activations": ["silu", "linear"],
    "base_num_decoder_layers": shape.num_layers,
    "base_emb_dim": shape.emb_dim,
    "base_mlp_dim": shape.mlp_dim,
    "base_num_query_heads": shape.num_heads,
    "base_num_kv_heads": shape.num_kv_heads,
    "head_dim": shape.head_dim,
    "vocab_size": shape.vocab_size,
    "max_target_length": shape.max_length,
    "normalization_layer_epsilon": shape.norm_epsilon,
    "rope_max_timescale": int(shape.rope_theta),
    "logits_via_embedding": shape.is_tied,
    "normalize_embedding_logits": shape.is_head_normalized,
    "scan_layers": True,
    "weight_dtype": dtype,
    "load_parameters_path": items,
  }


def _check_tensors(folder: ModelFolder, shape: LlamaShape) -> None:
  expected = folder_shapes(shape, has_head=not shape.is_tied)
  present = set(folder.names())
  for name, size in expected.items():
    if name not in present:
      raise ConfigError(f"{name}: config.json makes this tensor {list(size)}, {folder.path} has none")
    if folder.shape(name) != size:
      raise ConfigError(f"{name}: {folder.path} has shape {list(folder.shape(name))}, config.json makes it {list(size)}")
  # A tied folder may hold the head again; rotary frequencies are computed anyway.
  extra = [name for name in present - expected.keys() if name != "lm_head.weight" and "rotary_emb" not in name]
  if extra:
    raise ConfigError(f"{min(extra)}: MaxText's LLaMA-2 model has no such parameter")


def _save(step: str, parameters: Mapping[str, NDArray[Any]]) -> None:
  """Saves parameters by path in the layout that all releases of MaxText read.

  A folder for the step, of which `items` is a part: MaxText 0.2.5 trains from no other.
  """
  import jax
  import orbax.checkpoint as ocp

  tree: dict[str, Any] = {}
  for path, value in parameters.items():
    *modules, name = path.split("/")
    node = tree
    for module in modules:
      node = node.setdefault(module, {})
    node[name] = jax.numpy.asarray(value)
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
    checkpointer.save(step, ocp.args.Composite(items=ocp.args.PyTreeSave({"params": {"params": tree}})))
