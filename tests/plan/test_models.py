"""Counts of real MaxText configs from shapes alone, whatever their size and parallelism."""

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.hooks import registry
from maxtext_sparse.plan.models import load_model

SMALL = ["base_emb_dim=64", "base_mlp_dim=128", "base_num_query_heads=4", "base_num_kv_heads=4", "head_dim=16"]
SMALL += ["base_num_decoder_layers=4", "vocab_size=512"]
LAYER = 4 * 64 * 64 + 3 * 64 * 128
PRUNABLE = 4 * LAYER + 64 * 512
TOTAL = PRUNABLE + 512 * 64 + (2 * 4 + 1) * 64


@pytest.mark.parametrize(
  "parallelism",
  [
    [],
    ["ici_fsdp_parallelism=64", "ici_tensor_parallelism=4"],
    ["dcn_data_parallelism=4", "num_slices=4"],
    ["ici_pipeline_parallelism=2", "num_layers_per_pipeline_stage=1", "per_device_batch_size=4"],
    ["compile_topology=v5p-128", "compile_topology_num_slices=2"],
    ["hardware=tpu", "shard_mode=explicit"],
    ["scan_layers=False"],
  ],
)
def test_counts_do_not_depend_on_parallelism(parallelism):
  model = load_model([*SMALL, *parallelism])
  assert (model.total, model.num_prunable) == (TOTAL, PRUNABLE)
  assert len(model.to_dict()["matrices"]) == 4 * 7 + 1


def test_matrices_unfold_the_layers_and_add_up():
  content = load_model(SMALL).to_dict()
  assert sum(matrix["size"] for matrix in content["matrices"]) == content["prunable"] == PRUNABLE
  assert sum(array["size"] for array in content["left_dense"]) == TOTAL - PRUNABLE
  names = {matrix["name"] for matrix in content["matrices"]}
  assert {f"decoder/layers/mlp/wi_0/kernel[{layer}]" for layer in range(4)} <= names
  assert {matrix["name"]: matrix["shape"] for matrix in content["matrices"]}["decoder/logits_dense/kernel"] == [64, 512]


@pytest.mark.parametrize(
  ("name", "total", "prunable"),
  [
    ("default", 1_104_218_112, 1_038_614_528),
    ("deepseek3-671b", 671_026_404_352, 669_992_288_256),
    ("mixtral-8x7b", 46_702_792_704, 46_570_405_888),
  ],
)
def test_large_models_need_no_memory(name, total, prunable):
  model = load_model([f"model_name={name}"])
  assert (model.total, model.num_prunable) == (total, prunable)


def test_the_rules_are_those_of_training():
  narrowed = load_model([*SMALL, "prune_exclude=logits", "do_not_prune_kw=mlp"])
  assert narrowed.num_prunable == 4 * 4 * 64 * 64
  frozen = load_model([*SMALL, "trainable_parameters_mask=['.*mlp.*']"])
  assert frozen.num_prunable == 4 * 3 * 64 * 128
  with pytest.raises(ConfigError, match="prune_include='nothing': matches none"):
    load_model([*SMALL, "prune_include=nothing"])


def test_several_files_merge_left_to_right(tmp_path):
  (tmp_path / "one.yml").write_text("base_config: base.yml\nvocab_size: 512\nsteps: 10\n")
  (tmp_path / "two.yml").write_text("steps: 20\n")
  model = load_model([str(tmp_path / "one.yml"), str(tmp_path / "two.yml"), *SMALL[:-1]])
  assert (model.num_prunable, model.steps) == (PRUNABLE, 20)


def test_tokens_a_step():
  batch = ["per_device_batch_size=2", "gradient_accumulation_steps=3", "max_target_length=128"]
  model = load_model([*SMALL, *batch])
  assert model.tokens_per_step(num_chips=32) == 32 * 2 * 3 * 128
  assert model.tokens_per_step() == model.flat["global_batch_size_to_train_on"] * 128
  topology = load_model([*SMALL, *batch, "compile_topology=v5p-128"])
  assert topology.tokens_per_step() == 64 * 2 * 3 * 128
  half = load_model([*SMALL, "per_device_batch_size=0.5"])
  assert half.tokens_per_step(num_chips=32) == 16 * 2048
  with pytest.raises(ConfigError, match=r"per_device_batch_size=0.5: less than one sequence a step on 1 devices"):
    half.tokens_per_step(num_chips=1)


def test_tokens_are_not_known_while_the_batch_ramps_up():
  ramp = ["enable_rampup_batch_size=True", "per_device_batch_size_start=4", "per_device_batch_size_increment=4"]
  assert load_model([*SMALL, *ramp, "global_rampup_samples=500"]).tokens_per_step() is None


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["model_name=lama2-7b"], "model_name=lama2-7b: unknown, did you mean llama2-7b\\?"),
    (["model_name=qwen3.5-35b-fp8"], "model_name=qwen3.5-35b-fp8: this MaxText comes without"),
    (["base_emb_dimm=64"], "base_emb_dimm=64: MaxText has no such key, did you mean base_emb_dim\\?"),
    (["base.yml", "sparsty=0.5"], "sparsty=0.5: MaxText has no such key, did you mean sparsity\\?"),
    (["base.yml", "decoder_block=lama2"], "decoder_block=lama2: unknown, did you mean llama2\\?"),
    (["base.yml", "steps=ten"], "steps=ten: "),
    (["base.yml", "num_experts=8"], "moe_mlp_dim must be positive"),
    (["base.yml", "base_num_query_heads=5"], "Invalid num_kv_heads for GQA; base_num_query_heads must be a multiple of "),
  ],
)
def test_bad_configs_are_one_line(arguments, message):
  with pytest.raises(ConfigError, match=message) as error:
    load_model(arguments)
  assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_missing_file_suggests_the_nearest(tmp_path):
  (tmp_path / "162m.yml").write_text("base_config: base.yml\n")
  with pytest.raises(ConfigError, match=r"162n.yml: no such config file, did you mean .*162m.yml\?"):
    load_model([str(tmp_path / "162n.yml")])


def test_broken_yaml_is_one_line(tmp_path):
  (tmp_path / "broken.yml").write_text("a: [1,\n")
  with pytest.raises(ConfigError, match="not YAML") as error:
    load_model([str(tmp_path / "broken.yml")])
  assert "\n" not in str(error.value)


def test_nothing_stays_hooked_or_on_disk(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  load_model(SMALL)
  assert not registry._installed
  assert list(tmp_path.iterdir()) == []
