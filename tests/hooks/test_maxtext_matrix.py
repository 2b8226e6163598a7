"""What MaxText trains beside its default model: families of models, meshes, optimizers and ways to step.

Each case is a real run. It names the arrays that are pruned; they and no others lose weights, and they end at exactly
the target. The same keys with sparsity=0 train as stock MaxText does, bit for bit.
"""

from collections.abc import Iterator
import itertools
from pathlib import Path
import re

import numpy as np
import pytest
import yaml

from tests.hooks.harness import assert_same_leaves

README = Path(__file__).parents[2] / "maxtext_sparse" / "README.md"
MATRIX = yaml.safe_load((Path(__file__).parent / "maxtext_matrix.yml").read_text())
CASES = {name: case | {"group": group} for group, cases in MATRIX.items() for name, case in cases.items()}
# Events at 2, 4, 6 and 8.
SPARSE = {"sparsity": 0.8, "gmp_start_step": 2, "gmp_end_step": 8, "gmp_pruning_frequency": 2}


def expand(pattern: str) -> Iterator[str]:
  """`a/{b,c}` stands for `a/b` and `a/c`."""
  pieces = re.split(r"\{([^}]*)\}", pattern)
  choices = [piece.split(",") if index % 2 else [piece] for index, piece in enumerate(pieces)]
  return map("".join, itertools.product(*choices))


def prunable_names(case: dict) -> set[str]:
  return {name for pattern in case["prunable"] for name in expand(pattern)}


@pytest.fixture
def train(request, out):
  def run(name: str, label: str, plugin: bool = True, **overrides):
    case = CASES[name]
    worker = request.getfixturevalue("worker8" if case["group"] == "meshes" else "worker")
    keys = case.get("keys", {}) | ({"override_model_config": True} if "model_name" in case.get("keys", {}) else {})
    slug = re.sub(r"\W+", "-", name)
    return worker.train(out, f"matrix-{label}-{slug}", plugin, steps=10, **(keys | overrides))

  return run


def short_names(run) -> dict[str, np.ndarray]:
  """The model's arrays by their path within the decoder."""
  return {re.sub(r"^model/(decoder/)?|/value$", "", path): array for path, array in run.weights().items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_named_arrays_and_no_others_are_pruned_to_exactly_the_target(train, name):
  sparse = train(name, "sparse", **SPARSE)
  named = prunable_names(CASES[name])
  recorded = {re.sub(r"^decoder/|\[.*\]$", "", path) for path in sparse.event_files()[-1]["matrices"]}
  assert recorded == named
  arrays = short_names(sparse)
  total = sum(arrays[path].size for path in named)
  assert sum(np.count_nonzero(arrays[path]) for path in named) == total - round(0.8 * total)

  dense = short_names(train(name, "dense", sparsity=0.0))
  for path in arrays.keys() - named:
    assert np.count_nonzero(arrays[path]) == np.count_nonzero(dense[path]), path


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_sparsity_0_changes_no_bit(train, name):
  assert_same_leaves(train(name, "dense", sparsity=0.0), train(name, "stock", plugin=False))


def table() -> str:
  lines = ["| | trained | with | devices |", "|---|---|---|---|"]
  for group, cases in MATRIX.items():
    for number, (name, case) in enumerate(cases.items()):
      keys = ", ".join(f"`{key}={value}`" for key, value in case.get("keys", {}).items() if not is_size(key))
      cells = group if number == 0 else "", name, keys or "defaults", str(8 if group == "meshes" else 1)
      lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def is_size(key: str) -> bool:
  """Whether the key only makes the model small enough for a test."""
  return key.startswith("base_") or bool(re.search(r"num_experts|_dim$|_rank$|window_size|per_device|microbatches", key))


def test_the_readme_has_the_table():
  assert table() in README.read_text()
