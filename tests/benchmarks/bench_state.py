"""Counts the bytes of train state per prunable weight on real states: `python tests/benchmarks/bench_state.py`."""

import os
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import bench_search
import jax
import jax.numpy as jnp
import measure
import optax

from maxtext_sparse.pruning.transform import prune
from maxtext_sparse.schedule import Schedule


def num_bytes(tree: Any) -> int:
  """Bytes of all arrays in a tree. Scalars, such as the optimizer's count, are left out."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if leaf.ndim)


def states(weights: list[jax.Array]) -> dict[str, Any]:
  """Everything that each way of sparse training stores: weights, optimizer state and masks."""
  adam = optax.adamw(1e-3)
  ours = prune(adam, Schedule(9, (2, 4), (0.5, 0.25)), lambda path: True)
  masks = [jnp.ones_like(w, dtype=bool) for w in weights]
  as_parameters = (weights, [jnp.ones_like(w) for w in weights])
  return {
    "dense": (weights, adam.init(weights)),
    "zeros as the mask (this package)": (weights, ours.init(weights)),
    "bits, packed": (weights, adam.init(weights), [jnp.packbits(mask) for mask in masks]),
    "uint8 masks": (weights, adam.init(weights), [mask.astype(jnp.uint8) for mask in masks]),
    "float32 masks as parameters": (as_parameters, adam.init(as_parameters)),
  }


def main() -> None:
  results, rows = {}, []
  for dtype in (jnp.float32, jnp.bfloat16):
    weights = bench_search.draw_weights(1e6, dtype)
    size = sum(w.size for w in weights)
    results[dtype.__name__] = {name: num_bytes(state) / size for name, state in states(weights).items()}
  for name in results["float32"]:
    rows.append([name, *(f"{results[dtype][name]:.3f}".rstrip("0").rstrip(".") for dtype in results)])
  header = ["AdamW, bytes per prunable weight", "float32 weights", "bfloat16 weights"]
  measure.publish("state", results, measure.markdown(header, rows))


if __name__ == "__main__":
  main()
