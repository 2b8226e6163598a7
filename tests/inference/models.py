"""Tiny random LLaMA folders with zeros in their linear layers, dense or packed."""

import json

import torch
import transformers

from maxtext_sparse.weights import bitmask
from maxtext_sparse.weights.folder import ModelFolder
from maxtext_sparse.weights.safetensors import TensorWriter

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
  """The model of a dense folder as `export --format bitmask` writes it."""
  files = ModelFolder(str(folder))
  out.mkdir()
  (out / "config.json").write_text((folder / "config.json").read_text())
  write_tensors(out, {name: files.read(name) for name in files.names()}, set(files.linear_names()))
  return out


def write_tensors(folder, arrays, packed, stem="sparse"):
  """Writes name -> array, those named in `packed` as bitmask and values."""
  tensors = {}
  for name, array in arrays.items():
    fields = bitmask.pack(array) if name in packed else None
    tensors |= {f"{name}.{field}": part for field, part in fields.items()} if fields else {name: array}
  writer = TensorWriter(str(folder), stem, 10**9, tensors, {})
  for name, array in tensors.items():
    writer.add(name, array)
  writer.close()


def edit_config(folder, **changes):
  path = folder / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reference(folder, dtype):
  """The folder as transformers itself loads it."""
  return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def prompt(num_tokens, num_rows=1):
  return torch.randint(0, VOCABULARY, (num_rows, num_tokens), generator=torch.Generator().manual_seed(1))
