"""Dense twins: which hidden sizes are allowed, which are the neighbours, and what their weights mean."""

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.twins import hidden_size_unit, TwinFinder

FLAT = {
  "base_emb_dim": 768,
  "base_mlp_dim": 3072,
  "base_moe_mlp_dim": -1,
  "base_num_query_heads": 12,
  "head_dim": 64,
  "global_parameter_scale": 1,
  "model_name": "default",
}


def count(overrides):
  """Prunable weights of a 12-layer LLaMA with a vocabulary of 32,000."""
  sizes = {key: int(value) for key, value in (override.split("=") for override in overrides) if value.isdigit()}
  emb, mlp, head = sizes["base_emb_dim"], sizes["base_mlp_dim"], sizes["head_dim"]
  return 12 * (4 * emb * 12 * head + 3 * emb * mlp) + 32000 * emb


@pytest.mark.parametrize(
  ("emb_dim", "heads", "head_dim", "chips", "unit"),
  [
    (768, 12, 64, 1, 24),
    (768, 12, 64, 32, 96),
    (2048, 8, 256, 1, 16),
    (4096, 32, 128, 64, 64),
    (1024, 16, 128, 1, 16),
    (2560, 32, 80, 1, 64),
  ],
)
def test_sizes_are_divisible_by_heads_and_chips_and_keep_heads_even(emb_dim, heads, head_dim, chips, unit):
  assert hidden_size_unit(emb_dim, heads, head_dim, chips) == unit
  assert unit % heads == 0 and unit % chips == 0
  assert unit * head_dim % (2 * emb_dim) == 0


@pytest.mark.parametrize("chips", [1, 16, 32])
@pytest.mark.parametrize("share", [0.893, 0.766, 0.610, 0.399])
def test_neighbours_bracket_the_target_and_interpolate_to_it(chips, share):
  finder = TwinFinder(FLAT, count, chips)
  target = share * 137_822_208
  below, above = finder.find(0.5, target).neighbours
  assert below.num_prunable < target < above.num_prunable
  assert above.emb_dim - below.emb_dim == hidden_size_unit(768, 12, 64, chips)
  assert below.weight + above.weight == pytest.approx(1)
  assert below.weight * below.num_prunable + above.weight * above.num_prunable == pytest.approx(target)


def test_a_size_that_hits_the_target_is_alone():
  target = count(TwinFinder(FLAT, count).overrides(600))
  (neighbour,) = TwinFinder(FLAT, count).find(0.5, target).neighbours
  assert (neighbour.emb_dim, neighbour.weight) == (600, 1.0)


def test_overrides_keep_the_proportions_and_make_the_run_dense():
  assert TwinFinder(FLAT, count).overrides(480) == (
    "base_emb_dim=480",
    "base_mlp_dim=1920",
    "head_dim=40",
    "sparsity=0",
  )


def test_a_named_model_allows_its_shapes_to_be_overridden():
  assert "override_model_config=True" in TwinFinder(FLAT | {"model_name": "llama2-7b"}, count).overrides(480)


def test_too_many_chips_for_a_small_target():
  with pytest.raises(ConfigError, match="the smallest hidden size, 768, already has 137822208; use fewer --chips"):
    TwinFinder(FLAT, count, 256).find(0.8, 5e7)


def test_scaled_models_are_refused():
  with pytest.raises(ConfigError, match="global_parameter_scale=2"):
    TwinFinder(FLAT | {"global_parameter_scale": 2}, count)
