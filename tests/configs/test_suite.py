"""The model suite: every sensible merge is a valid MaxText config, with the paper's sizes, tokens and schedules."""

import json
import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from maxtext_sparse.cli.plan import register
from maxtext_sparse.plan.models import load_model

CONFIGS = Path(__file__).parents[2] / "configs"
MODELS = ("58m", "162m", "468m", "1b")
DATA = ("c4_tfds", "c4_grain", "demo_text")
# 32 chips x 32 sequences x 2048 tokens.
NUM_CHIPS, TOKENS_PER_STEP = 32, 2_097_152
app = typer.Typer()
register(app)


def load(*names, overrides=()):
  return load_model([*(str(CONFIGS / f"{name}.yml") for name in names), *overrides])


@pytest.mark.parametrize(
  ("name", "prunable", "total", "table_1"),
  [
    ("58m", 41_549_824, 57_940_480, 42),
    ("162m", 137_822_208, 162_417_408, 138),
    ("468m", 435_421_184, 468_239_360, 435),
    ("1b", 1_139_277_824, 1_204_881_408, 1139),
  ],
)
def test_sizes_are_those_of_table_1(name, prunable, total, table_1):
  model = load(f"models/{name}")
  assert (model.num_prunable, model.total) == (prunable, total)
  assert round(model.num_prunable / 1e6) == table_1
  assert name == "1b" or name == f"{round(model.total / 1e6)}m"


@pytest.mark.parametrize(
  ("files", "tokens"),
  [
    (("models/58m",), 14.7e9),
    (("models/58m", "lengths/58m_20x"), 29.4e9),
    (("models/162m",), 33.5e9),
    (("models/162m", "lengths/162m_20x"), 67.1e9),
    (("models/468m",), 94.4e9),
    (("models/468m", "lengths/468m_20x"), 188.8e9),
    (("models/1b",), 72200 * 2.1e6),
  ],
)
def test_lengths_are_those_of_table_1(files, tokens):
  model = load(*files)
  assert model.tokens_per_step(NUM_CHIPS) == TOKENS_PER_STEP
  assert model.steps * TOKENS_PER_STEP == pytest.approx(tokens, rel=2e-3)
  assert model.steps % 1000 == 0 or model.steps == 72200


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("model", "sparsity"), [*zip(MODELS, (20, 40, 60, 80))])
def test_every_merge_is_a_valid_config(model, sparsity, data):
  merged = load(f"models/{model}", f"data/{data}", f"sparsity/s{sparsity}")
  assert merged.keys.sparsity == sparsity / 100
  assert merged.keys.model_dump(exclude={"sparsity"}) == type(merged.keys)().model_dump(exclude={"sparsity"})
  assert merged.flat["dataset_type"] == {"c4_tfds": "tfds"}.get(data, "grain")
  assert os.path.basename(merged.flat["tokenizer_path"]) == "tokenizer.llama2"
  assert (merged.flat["vocab_size"], merged.flat["max_target_length"]) == (32000, 2048)


@pytest.mark.parametrize(("model", "rate"), [("58m", 1e-3), ("162m", 6e-4), ("468m", 3e-4), ("1b", 7.753e-4)])
def test_pythias_recipe(model, rate):
  flat = load(f"models/{model}").flat
  assert flat["learning_rate"] == rate
  assert (flat["warmup_steps_fraction"], flat["learning_rate_final_fraction"]) == (0.01, 0.1)
  assert (flat["adam_b1"], flat["adam_b2"], flat["adam_eps"], flat["adam_weight_decay"]) == (0.9, 0.95, 1e-8, 0.1)
  assert (flat["gradient_clipping_threshold"], flat["opt_type"]) == (1.0, "adamw")
  assert flat["lr_schedule_type"] == "cosine"


def test_maxtext_ships_the_tokenizer():
  import maxtext

  assert os.path.isfile(os.path.join(os.path.dirname(maxtext.__file__), "assets", "tokenizers", "tokenizer.llama2"))


def test_the_files_stay_small_and_few():
  files = list(CONFIGS.rglob("*.yml"))
  for path in files:
    assert len(path.read_text().splitlines()) <= 50, path
  assert len(files) <= 30


# The form of the paper's fork: a model file on its own, its names of the sparsity keys, explicit steps.
FORK = """\
base_config: "base.yml"

base_emb_dim: 2048
base_num_query_heads: 8
base_num_kv_heads: 8
base_mlp_dim: 8192
base_num_decoder_layers: 16
head_dim: 256
mlp_activations: ["silu","linear"]
vocab_size: 32000
enable_dropout: False
logits_via_embedding: False
normalization_layer_epsilon: 1.0e-5
decoder_block: "llama2"

sparsity: 0.5
pruning_method: "global_gradual"
gmp_start_step: 12500
gmp_end_step: 47200
gmp_pruning_frequency: 100
do_not_prune_kw: ""
"""


@pytest.fixture
def fork_file(tmp_path):
  path = tmp_path / "sparse_1b_50p.yml"
  path.write_text(FORK)
  return str(path)


def test_a_model_file_of_the_papers_fork_is_a_config(fork_file):
  model = load_model([fork_file, "steps=72200"])
  assert (model.num_prunable, model.steps) == (1_139_277_824, 72200)
  assert (model.keys.sparsity, model.keys.gmp_start_step, model.keys.gmp_end_step) == (0.5, 12500, 47200)


def test_a_file_of_the_fork_has_the_papers_fractions(fork_file):
  output = CliRunner().invoke(app, ["plan", fork_file, "steps=72200", "--json"])
  plan = json.loads(output.stdout)
  assert (plan["gmp_start_step"], plan["gmp_end_step"], plan["num_pruning_events"]) == (12500, 47200, 348)
  assert [plan[f"{name}_fraction"] for name in ("dense", "prune", "recovery")] == pytest.approx(
    [0.25, 0.5, 0.25], abs=1e-3
  )


def test_a_file_of_the_fork_is_a_base_config_and_merges_with_the_suites_files(fork_file, tmp_path):
  path = tmp_path / "mine.yml"
  path.write_text(f"base_config: {fork_file}\nsteps: 72200\n")
  assert load_model([str(path)]).keys.gmp_start_step == 12500
  merged = load_model([fork_file, str(CONFIGS / "data" / "c4_grain.yml"), "steps=72200"])
  assert (merged.keys.gmp_end_step, merged.flat["dataset_type"]) == (47200, "grain")


def test_a_file_of_the_fork_without_enough_steps_is_refused(fork_file):
  result = CliRunner().invoke(app, ["plan", fork_file, "steps=12000", "--json"])
  assert result.exit_code == 2
  assert "gmp_start_step=12500: beyond the run" in result.stderr
