"""Tiny random LLaMA folders with zeros in their linear layers, dense or packed."""

import json

import numpy as np
import torch
import transformers

from maxtext_sparse.inference.bitmask_file import WeightFiles
from maxtext_sparse.inference.loading import as_matrix
from tests.inference.writing import packed_parts, write_safetensors

VOCABULARY = 96


def write_model(folder, sparsity=0.8, dtype=torch.bfloat16, has_bias=False, **changes):
  """A random LLaMA of 2 layers in `folder`; each linear layer has about `sparsity` zeros."""
  torch.manual_seed(0)
  shape = {"hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4}
  config = transformers.LlamaConfig(
    vocab_size=VOCABULARY,
    **{**shape, "num_key_value_heads": 2, "attention_bias": has_bias, "tie_word_embeddings": False, **changes},
  )
  model = transformers.LlamaForCausalLM(config)
  for module in model.modules():
    if isinstance(module, torch.nn.Linear):
      module.weight.data *= 5 * (torch.rand(module.weight.shape) >= sparsity)
      if module.bias is not None:
        module.bias.data.normal_()
  model.to(dtype).save_pretrained(folder)
  return folder


def pack_model(folder, out):
  """The model of a dense folder with its linear layers packed as `export --format bitmask` does."""
  files = WeightFiles(folder)
  out.mkdir()
  (out / "config.json").write_text((folder / "config.json").read_text())
  tensors = {}
  for name in files.dense:
    kind, array = files.tensor(name)
    if array.ndim == 2 and "embed" not in name:
      tensors |= packed_parts(name, as_matrix(files, name))
    else:
      tensors[name] = (kind, np.asarray(array))
  write_safetensors(out / "model.safetensors", tensors)
  return out


def edit_config(folder, **changes):
  path = folder / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reference(folder, dtype):
  """The folder as transformers itself loads it."""
  return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def prompt(num_tokens, num_rows=1):
  return torch.randint(0, VOCABULARY, (num_rows, num_tokens), generator=torch.Generator().manual_seed(1))
