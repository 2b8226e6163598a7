"""Random models in checkpoints as MaxText's pre-training lays them out, made without MaxText."""

import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from maxtext_sparse.export.llama import LlamaShape, maxtext_shapes

SHAPE = LlamaShape(
  num_layers=3, emb_dim=32, mlp_dim=64, num_heads=4, num_kv_heads=2, head_dim=16, vocab_size=96, max_length=64
)
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def config_of(shape: LlamaShape, is_scanned: bool = True, **others) -> dict:
  """The keys of a MaxText config that the export asks for."""
  return {
    "model_name": "default",
    "decoder_block": "llama2",
    "mlp_activations": ["silu", "linear"],
    "rope_type": "llama3.1" if shape.is_rope_interleaved else "default",
    "rope_use_scale": shape.is_rope_scaled,
    "rope_max_timescale": shape.rope_theta,
    "num_decoder_layers": shape.num_layers,
    "emb_dim": shape.emb_dim,
    "mlp_dim": shape.mlp_dim,
    "num_query_heads": shape.num_heads,
    "num_kv_heads": shape.num_kv_heads,
    "head_dim": shape.head_dim,
    "vocab_size": shape.vocab_size,
    "max_target_length": shape.max_length,
    "normalization_layer_epsilon": shape.norm_epsilon,
    "logits_via_embedding": shape.is_tied,
    "normalize_embedding_logits": shape.is_head_normalized,
    "scan_layers": is_scanned,
    "tokenizer_type": "sentencepiece",
    "tokenizer_path": "",
    "sparsity": 0.7,
    **others,
  }


def random_parameters(shape: LlamaShape = SHAPE, is_scanned: bool = True, dtype: str = "float32") -> dict:
  """Weights by path, about 70 % of each kernel's zero."""
  generator = np.random.default_rng(0)
  parameters = {}
  for path, size in maxtext_shapes(shape, is_scanned).items():
    values = generator.normal(size=size) * (0.1 if "query" in path else 0.3)
    if path.endswith("scale"):
      values = 1 + values
    elif path.endswith("kernel"):
      values *= generator.random(size) > 0.7
    parameters[path] = values.astype(DTYPES[dtype])
  return parameters


def save_run(folder: Path, parameters: dict, config: dict | None, step: int = 9) -> Path:
  """Writes RUN/checkpoints/STEP/items, with an optimizer state beside the model, and RUN/sparsity/config.json."""
  import orbax.checkpoint as ocp

  tree: dict = {}
  for path, value in parameters.items():
    node = tree
    *modules, name = path.split("/")
    for module in modules:
      node = node.setdefault(module, {})
    node[name] = jax.numpy.asarray(value)
  state = {"params": {"params": tree}, "opt_state": {"mu": {"params": tree}}, "step": jax.numpy.asarray(step)}
  items = folder / "checkpoints" / str(step) / "items"
  items.parent.mkdir(parents=True)
  ocp.PyTreeCheckpointer().save(items, state)
  if config is not None:
    (folder / "sparsity").mkdir(exist_ok=True)
    (folder / "sparsity" / "config.json").write_text(json.dumps(config))
  return items.parent


def save_model(folder: Path, shape: LlamaShape = SHAPE, is_scanned: bool = True, dtype: str = "float32") -> Path:
  """A run with a random model; returns the folder of its checkpoint."""
  return save_run(folder, random_parameters(shape, is_scanned, dtype), config_of(shape, is_scanned))
