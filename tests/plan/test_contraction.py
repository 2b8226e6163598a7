"""The contraction axes that we derive from a kernel's path are those of MaxText's own linear layers."""

from flax import nnx
import pytest

from maxtext_sparse.hooks import train_state
from maxtext_sparse.plan.models import load_model

FAMILIES = {
  "llama": ["base.yml"],
  "unscanned": ["base.yml", "scan_layers=False"],
  "grouped queries": ["model_name=llama3.1-8b"],
  "gemma": ["model_name=gemma2-2b"],
  "gemma 3": ["model_name=gemma3-4b"],
  "qwen": ["model_name=qwen3-0.6b"],
  "experts": ["model_name=mixtral-8x7b"],
  "experts of qwen": ["model_name=qwen3-30b-a3b"],
  "latent attention": ["model_name=deepseek2-16b"],
  "gpt-oss": ["model_name=gpt-oss-20b"],
}


def linear_layers(model) -> dict[str, tuple[int, ...]]:
  """Path of each DenseGeneral's kernel -> sizes of the axes that it sums over."""
  from maxtext.layers.linears import DenseGeneral

  modules = ((path, node) for path, node in nnx.iter_graph(model) if isinstance(node, DenseGeneral))
  return {"/".join(map(str, (*path, "kernel"))): tuple(layer.in_features_shape) for path, layer in modules}


@pytest.mark.parametrize("arguments", FAMILIES.values(), ids=FAMILIES)
def test_contraction_axes_are_those_of_maxtexts_layers(arguments, monkeypatch):
  models = []
  describe = train_state.abstract_parameters
  monkeypatch.setattr(train_state, "abstract_parameters", lambda m, c: models.append(m) or describe(m, c))
  prunable = {p.path: p for p in load_model(arguments).prunable}
  layers = linear_layers(models[0])
  checked = prunable.keys() & layers.keys()
  assert len(checked) >= 5
  for path in checked:
    assert tuple(prunable[path].shape[a] for a in prunable[path].contraction_axes) == layers[path], path
  # All others are expert weights, (expert, in, out), which MaxText keeps outside of linear layers.
  for path in prunable.keys() - layers.keys():
    expert = prunable[path]
    assert path.rpartition("/")[2] in ("wi", "wi_0", "wi_1", "wo") and len(expert.matrix_axes) == 2, path
    assert expert.stack_axes[-1] not in expert.matrix_axes
