"""torch's own conversion to semi-structured (2:4) weights takes every matrix of a model that MaxText trained to 2:4."""

import json

import pytest

from maxtext_sparse.export.write import export_checkpoint, ExportOptions
from maxtext_sparse.inspection.measure import measure
from maxtext_sparse.weights.folder import ModelFolder
from tests.export import torch_environment
from tests.hooks.conftest import out, worker

__all__ = ["out", "worker"]
pytestmark = pytest.mark.slow

# The conversion keeps two weights of four and drops what is more, so a matrix that does not comply comes back changed.
CONVERT = """
import json, sys
from safetensors.torch import load_file
from torch.sparse._semi_structured_conversions import (
  sparse_semi_structured_from_dense_cutlass, sparse_semi_structured_to_dense_cutlass)

equal = {}
for name, weight in load_file(sys.argv[1] + "/model.safetensors").items():
  if "proj" in name or "lm_head" in name:
    values, metadata = sparse_semi_structured_from_dense_cutlass(weight)
    assert values.shape == (weight.shape[0], weight.shape[1] // 2)
    equal[name] = bool((sparse_semi_structured_to_dense_cutlass(values, metadata) == weight).all())
print(json.dumps(equal))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory, worker, out):
  """Exports of a 2:4 run and of an unstructured run of the same density."""
  exported = {}
  for name, rule in {"two-of-four": {"pruning_structure": "2:4"}, "unstructured": {"sparsity": 0.5}}.items():
    worker.train(out, name, steps=12, gmp_start_step=2, gmp_end_step=8, enable_checkpointing=True, **rule)
    exported[name] = tmp_path_factory.mktemp(name) / "hf"
    export_checkpoint(str(out / name), str(exported[name]), [], ExportOptions(dtype="bfloat16"))
  return exported


def test_torch_gives_back_every_matrix(folders):
  equal = json.loads(torch_environment.run(CONVERT, folders["two-of-four"]))
  assert len(equal) == 2 * 7 + 1 and all(equal.values())
  unstructured = json.loads(torch_environment.run(CONVERT, folders["unstructured"]))
  # A query kernel that lost nearly all its weights complies by chance.
  assert all("q_proj" in name for name, is_equal in unstructured.items() if is_equal)


def test_inspect_says_so_too(folders):
  folder = ModelFolder(str(folders["two-of-four"]))
  matrices = [(name, folder.read(name)) for name in folder.linear_names()]
  assert len(matrices) == 15 and all("2:4" in measure(name, array).structures for name, array in matrices)
