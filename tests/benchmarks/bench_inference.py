"""Times generation with sparse weights on this CPU: `python tests/benchmarks/bench_inference.py [--sparsities 0.8 0.6]`.

Makes a random LLaMA of 400M parameters (the 1b model's shape with 4 layers) at each sparsity, and runs
`maxtext-sparse bench` on it. Needs the extras `inference` and `analysis`, 12 GB of memory and about 8 minutes.
"""

import argparse
import tempfile

import measure
import torch
import transformers

from maxtext_sparse.inference.comparison import BenchPlan, compare
from maxtext_sparse.inference.library import allowed_cpus
from maxtext_sparse.inference.text import COLUMNS, remarks, rows
from maxtext_sparse.plots.inference import save_comparison

SHAPE = {
  "hidden_size": 2048,
  "intermediate_size": 8192,
  "num_hidden_layers": 4,
  "num_attention_heads": 8,
  "num_key_value_heads": 8,
  "vocab_size": 32000,
}


def write_model(folder: str, sparsity: float, shape: dict[str, int]) -> None:
  """A random LLaMA in bfloat16; a random mask removes the share `sparsity` of each linear layer's weights."""
  torch.manual_seed(0)
  config = transformers.LlamaConfig(**shape, tie_word_embeddings=False)
  model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
  for module in model.modules():
    if isinstance(module, torch.nn.Linear):
      # Weights of larger size than transformers' 0.02, so that logits of different tokens lie apart.
      module.weight.data *= 2 * (torch.rand(module.weight.shape) >= sparsity)
  model.save_pretrained(folder)


def bars(results: dict[float, dict]) -> dict[str, bool]:
  """What the inference package promises on two cores at batch 1."""
  met = {}
  if 0.8 in results:
    speed, memory = results[0.8]["tokens_per_second"], results[0.8]["resident_bytes"]
    met["80 %: bf16 values at least 2x torch bf16"] = speed["sparse_bf16"] >= 2 * speed["dense_bf16"]
    met["80 %: bf16 values at least 2x torch fp32"] = speed["sparse_bf16"] >= 2 * speed["dense_fp32"]
    met["80 %: int8 values at least 1.3x torch int8"] = speed["sparse_int8"] >= 1.3 * speed["dense_int8"]
    met["80 %: resident at most 0.35x dense bf16"] = memory["sparse_bf16"] <= 0.35 * memory["dense_bf16"]
  if 0.6 in results:
    speed = results[0.6]["tokens_per_second"]
    met["60 %: int8 values no slower than torch int8"] = speed["sparse_int8"] >= speed["dense_int8"]
  return met


def table(results: dict[float, dict]) -> str:
  """One table of all sparsities, then what is to be known about each, and the bars."""
  all_rows = [[f"{sparsity:.0%}", *row] for sparsity, result in results.items() for row in rows(result)]
  parts = [measure.markdown(("sparsity", "form", *COLUMNS[1:]), all_rows)]
  for sparsity, result in results.items():
    parts.append("\n".join([f"At {sparsity:.0%}:", "", *(f"- {line}" for line in remarks(result))]))
  parts.append("\n".join(f"- {'met' if is_met else 'NOT MET'}: {name}" for name, is_met in bars(results).items()))
  return "\n\n".join(parts)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--sparsities", type=float, nargs="+", default=(0.8, 0.6))
  parser.add_argument("--cpus", type=int, nargs="+", default=allowed_cpus()[:2])
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--tokens", type=int, default=16)
  parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
  options = parser.parse_args()
  results = {}
  for sparsity in options.sparsities:
    with tempfile.TemporaryDirectory() as folder:
      write_model(folder, sparsity, SHAPE | {"num_hidden_layers": options.layers})
      plan = BenchPlan(folder, tuple(options.cpus), options.rounds, options.tokens)
      result = compare(plan, lambda line: print(line, flush=True))
    results[sparsity] = result | {"folder": f"random LLaMA, {sparsity:.0%} sparse"}
    save_comparison(result, str(measure.OUT / f"inference_{sparsity:g}"))
  measure.publish("inference", {"runs": list(results.values()), "bars": bars(results)}, table(results))


if __name__ == "__main__":
  main()
