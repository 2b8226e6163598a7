"""transformers itself loads an export, computes MaxText's logits and writes the same text, token for token."""

import json

import numpy as np
import pytest

from maxtext_sparse.evaluation.numpy_llama import NumpyLlama
from maxtext_sparse.export.write import export_checkpoint, ExportOptions
from maxtext_sparse.weights.folder import ModelFolder
from tests.export import torch_environment
from tests.export.test_logits import data, maxtext_logits, models, VARIANTS

__all__ = ["data", "models"]
pytestmark = pytest.mark.slow

LOAD = """
import json, sys
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, tokens, out = sys.argv[1:]
model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
tokenizer = AutoTokenizer.from_pretrained(folder)
tokens = torch.tensor(json.loads(tokens))
with torch.no_grad():
  np.savez(out, logits=model(tokens).logits.float().numpy())
  text = model.generate(tokens[:1, :8], max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)
prompt = tokenizer.decode(tokens[0, 1:])
print(json.dumps({
  "report": {key: sorted(map(str, value)) for key, value in report.items()},
  "dtype": str(model.dtype),
  "text": text[0].tolist(),
  "again": tokenizer(prompt).input_ids,
  "bos": tokenizer.bos_token_id,
}))
"""


def load(folder, tokens, tmp_path):
  result = json.loads(torch_environment.run(LOAD, folder, json.dumps(tokens), tmp_path / "logits.npz").splitlines()[-1])
  assert not any(result["report"].values()), "keys that are missing, unexpected or of another shape"
  return result, np.load(tmp_path / "logits.npz")["logits"]


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_text(tmp_path, models, data, name):
  _, tokens = data
  export_checkpoint(str(models / name), str(tmp_path / "hf"), [], ExportOptions(shard_bytes=100_000))
  result, logits = load(tmp_path / "hf", tokens, tmp_path)
  theirs = maxtext_logits(models, name)
  assert np.abs(logits - theirs).max() <= 1e-4
  np.testing.assert_array_equal(logits.argmax(-1), theirs.argmax(-1))
  model, written = NumpyLlama(ModelFolder(str(tmp_path / "hf"))), list(tokens[0][:8])
  for _ in range(24):
    written.append(int(model.logits(np.array([written]))[0, -1].argmax()))
  assert result["text"] == written


def test_the_tokenizer_gives_the_training_tokens(tmp_path, models, data):
  _, tokens = data
  export_checkpoint(str(models / "grouped"), str(tmp_path / "hf"), [])
  result, _ = load(tmp_path / "hf", tokens, tmp_path)
  assert result["bos"] == tokens[0][0] and result["again"] == tokens[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes_load_as_what_they_are(tmp_path, models, data, dtype):
  export_checkpoint(str(models / "tied"), str(tmp_path / "hf"), [], ExportOptions(dtype=dtype))
  result, logits = load(tmp_path / "hf", data[1], tmp_path)
  assert result["dtype"] == f"torch.{dtype}"
  theirs = maxtext_logits(models, "tied")
  assert np.abs(logits - theirs).max() < 0.05 * np.abs(theirs).max()


def test_a_bitmask_folder_is_refused_instead_of_being_initialised_at_random(tmp_path, models):
  export_checkpoint(str(models / "grouped"), str(tmp_path / "hf"), [], ExportOptions(weights_format="bitmask"))
  script = (
    "import sys\nfrom transformers import AutoModelForCausalLM\n"
    "try:\n  AutoModelForCausalLM.from_pretrained(sys.argv[1])\nexcept OSError as error:\n  print(error)"
  )
  assert "model.safetensors" in torch_environment.run(script, tmp_path / "hf")


def test_the_bitmask_loader_gives_torch_tensors(tmp_path, models):
  """The loader's files need numpy and ml_dtypes only, so they run beside torch without the rest of the package."""
  export_checkpoint(str(models / "grouped"), str(tmp_path / "hf"), [], ExportOptions(dtype="bfloat16"))
  options = ExportOptions(dtype="bfloat16", weights_format="bitmask")
  export_checkpoint(str(models / "grouped"), str(tmp_path / "sparse"), [], options)
  script = (
    "import sys, json, torch\nsys.path.insert(0, sys.argv[1])\n"
    "from safetensors.torch import load_file\n"
    "from maxtext_sparse.weights.bitmask import to_torch\nfrom maxtext_sparse.weights.folder import load_dense\n"
    "dense = load_file(sys.argv[2] + '/model.safetensors')\n"
    "sparse = {name: to_torch(array) for name, array in load_dense(sys.argv[3])}\n"
    "assert dense.keys() == sparse.keys()\n"
    "assert all(torch.equal(dense[name], sparse[name]) and dense[name].dtype == sparse[name].dtype for name in dense)\n"
    "print(len(dense))"
  )
  root = str(torch_environment.FOLDER.parent)
  assert int(torch_environment.run(script, root, tmp_path / "hf", tmp_path / "sparse")) == 21
