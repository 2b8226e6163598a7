"""Models that MaxText's own tables describe: tiny ones of each family, trained sparse, against transformers."""

import json

import numpy as np
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.export.table_family import CHECKED, TableFamily
from maxtext_sparse.export.write import export_checkpoint
from maxtext_sparse.inspection.verify import verify
from tests.export import torch_environment
from tests.export.test_logits import run_worker
from tests.hooks.harness import arguments

TOLERANCE = 1e-4
TINY = {"base_num_kv_heads": 2, "override_model_config": True, "tokenizer_type": "sentencepiece"}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "sparse_matmul": False, "capacity_factor": -1.0}
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "base_num_kv_heads": 4}
MODELS = {
  # This one needs no table: it is of the LLaMA-2 family, with another rotary embedding.
  "llama3.1-8b": TINY,
  "gemma2-2b": TINY,
  # Six layers are one period of local and global attention; the window is shorter than the text.
  "gemma3-4b": TINY | {"base_num_decoder_layers": 6, "sliding_window_size": 16},
  "qwen3-0.6b": TINY,
  "qwen3-30b-a3b": TINY | EXPERTS | {"base_moe_mlp_dim": 64},
  "mixtral-8x7b": TINY | EXPERTS | {"base_moe_mlp_dim": 128},
  "deepseek2-16b": TINY | EXPERTS | LATENT | {"base_moe_mlp_dim": 64, "shared_experts": 1, "first_num_dense_layers": 1},
}
TRAINING = {
  "sparsity": 0.5,
  "gmp_start_step": 2,
  "gmp_end_step": 4,
  "gmp_pruning_frequency": 1,
  "steps": 8,
  "learning_rate": 1e-2,
  "enable_checkpointing": True,
  "checkpoint_period": 100,
  "per_device_batch_size": 4,
}
TOKENS = np.random.default_rng(0).integers(4, 500, (2, 32)).tolist()

LOGITS = """
import json, sys
import numpy as np
import torch
from transformers import AutoModelForCausalLM

model, report = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(report.values()), report
with torch.no_grad():
  np.save(sys.argv[3], model(torch.tensor(json.loads(sys.argv[2]))).logits.float().numpy())
"""


def test_every_family_that_is_exported_is_checked_here():
  assert all(any(name.startswith(prefix) for name in MODELS) for prefix in CHECKED)


@pytest.mark.parametrize("name", ["gpt-oss-20b", "deepseek3-671b"])
def test_a_family_that_was_not_checked_is_refused_by_name(checkpoint, name):
  with pytest.raises(ConfigError, match=f"model_name={name}: not exported"):
    TableFamily({"model_name": name}, Checkpoint(str(checkpoint)), "float32")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  out = tmp_path_factory.mktemp("families")
  cases = []
  for name, shape in MODELS.items():
    train = arguments(out, name, model_name=name, **(TRAINING | shape))
    load = [*train, f"load_parameters_path={out}/{name}/checkpoints/7/items"]
    cases.append({"name": name, "train": train, "load": load, "tokens": TOKENS})
  run_worker(out, cases)
  return out


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_maxtexts_logits(tmp_path, models, name):
  result = export_checkpoint(str(models / name), str(tmp_path / "hf"), [])
  assert result.certificate["density"] == pytest.approx(0.5, abs=1e-4)
  assert verify(str(tmp_path / "hf")).is_ok
  torch_environment.run(LOGITS, tmp_path / "hf", json.dumps(TOKENS), tmp_path / "logits.npy")
  ours, theirs = np.load(tmp_path / "logits.npy"), np.load(models / f"{name}.npz")["logits"]
  assert np.abs(ours - theirs).max() <= TOLERANCE
  np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))
