"""Times the threshold search against what it replaces: `python tests/benchmarks/bench_search.py [--sizes 1e6 42e6 ...]`.

  read       finds the largest magnitude of all weights; this is one pass over them, and no search can be faster
  search     our search
  sort       concatenates the weights, sorts them, and takes one element
  argsort    does the same with indices, which a mask by rank needs
  partition  numpy's selection on the host; the copy to the host is not counted

All of them take turns in one process, on the same float32 arrays with the shapes of a transformer.
"""

import argparse
from collections.abc import Callable
import os
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import measure
import numpy as np

from maxtext_sparse.pruning.counting import split_counts
from maxtext_sparse.pruning.matrices import index_offsets
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.pruning.threshold import Contest, find_cuts, magnitude_ranking

SIZES = (1e6, 4e6, 10e6, 42e6, 100e6, 200e6)
SPARSITY = 0.8
# Few rounds are enough for a function that is tens of times slower: a sort of 200M weights takes more than a minute.
FAST_ROUNDS, SLOW_ROUNDS, HUGE_ROUNDS = 15, 3, 1
HUGE = 50e6


def num_rounds(size: float) -> dict[str, int]:
  """How often each contender is called on `size` weights."""
  slow = HUGE_ROUNDS if size > HUGE else SLOW_ROUNDS
  return {"read": FAST_ROUNDS, "search": FAST_ROUNDS, "sort": slow, "argsort": slow, "partition": slow}


def draw_weights(size: float, dtype: Any = jnp.float32) -> list[jax.Array]:
  """About `size` random weights, shaped like a decoder's matrices with stacked layers, each matrix with its own scale."""
  generator = np.random.default_rng(0)
  width = round((size / 49) ** 0.5)
  shapes = [(6, width, 2 * width)] * 2 + [(6, 2 * width, width)] + [(6, width, width)] * 2 + [(width, width)]
  scales = (0.05, 0.05, 0.02, 0.016, 0.09, 0.03)
  draw = lambda shape, scale: jnp.asarray(generator.standard_normal(shape, np.float32) * np.float32(scale), dtype)
  return [draw(shape, scale) for shape, scale in zip(shapes, scales)]


def find_cut(weights: list[jax.Array], num_keep: int) -> jax.Array:
  """The threshold of one global contest by magnitude, as an event with the default keys finds it."""
  parameters = [Parameter(str(i), w.shape) for i, w in enumerate(weights)]
  offsets = index_offsets(parameters)
  rankings = tuple(magnitude_ranking(w, p, offsets[p.path]) for w, p in zip(weights, parameters))
  return find_cuts([Contest(rankings, is_per_matrix=False, num_keep=split_counts([num_keep]))])[0].threshold


def contenders(weights: list[jax.Array], sparsity: float = SPARSITY) -> dict[str, Callable[[], Any]]:
  """The compiled functions by name. Each finds the threshold of the same weights, except `read`."""
  size = sum(w.size for w in weights)
  num_keep = round(size * (1 - sparsity))
  flat = lambda weights: jnp.concatenate([jnp.abs(w).ravel() for w in weights])
  host = np.asarray(flat(weights))
  compiled = lambda function: jax.jit(function).lower(weights).compile()
  read = compiled(lambda weights: jnp.stack([jnp.max(jnp.abs(w)) for w in weights]))
  search = compiled(lambda weights: find_cut(weights, num_keep))
  sort = compiled(lambda weights: jnp.sort(flat(weights))[size - num_keep])
  argsort = compiled(lambda weights: jnp.argsort(flat(weights))[size - num_keep])
  return {
    "read": lambda: read(weights),
    "search": lambda: search(weights),
    "sort": lambda: sort(weights),
    "argsort": lambda: argsort(weights),
    "partition": lambda: np.partition(host, size - num_keep)[size - num_keep],
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--sizes", type=float, nargs="+", default=SIZES)
  sizes = parser.parse_args().sizes
  results, rows = [], []
  for size in sizes:
    weights = draw_weights(size)
    functions = contenders(weights)
    seconds = measure.medians(measure.interleaved(functions, num_rounds(size)))
    count = sum(w.size for w in weights)
    results.append({"weights": count, "seconds": seconds})
    search = seconds["search"]
    times = [f"{seconds[name] * 1e3:,.1f}" for name in functions]
    rows.append([f"{count / 1e6:.0f}M", *times, f"{search / seconds['read']:.1f}", f"{seconds['sort'] / search:.0f}"])
  header = ["weights", *(f"{name}, ms" for name in functions), "search / read", "sort / search"]
  measure.publish("search", results, measure.markdown(header, rows))


if __name__ == "__main__":
  main()
