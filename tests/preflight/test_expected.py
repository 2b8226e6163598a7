"""The FLOPs that a config implies, against sums by hand."""

import types

import pytest

from maxtext_sparse.preflight import expected

TOKENS, EMB, MLP, LAYERS, VOCAB = 2 * 1024, 64, 256, 3, 512
HEAD = 2.0 * TOKENS * EMB * VOCAB
# Of one pass through all layers: those of attention's projections are left out here, as if there were none.
MLP_PASS = LAYERS * 3 * 2.0 * TOKENS * EMB * MLP
ATTENTION = 6e6
BASE = {
  "per_device_batch_size": 2,
  "gradient_accumulation_steps": 1,
  "max_target_length": 1024,
  "sa_block_q": 256,
  "emb_dim": EMB,
  "mlp_dim": MLP,
  "num_decoder_layers": LAYERS,
  "vocab_size": VOCAB,
  "remat_policy": "full",
  "attention_type": "global",
  "num_experts": 1,
  "num_experts_per_tok": 1,
  "sparse_matmul": True,
  "capacity_factor": -1.0,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2}


@pytest.fixture
def count(monkeypatch):
  """`expected_flops` of a config, with a model of nothing but MLPs and a head."""

  def counted(**changes):
    config = types.SimpleNamespace(**BASE | changes)
    weights = 3 * (MLP_PASS * config.num_experts_per_tok + HEAD)
    monkeypatch.setattr(expected, "_maxtext_flops", lambda _: (weights + ATTENTION, weights, ATTENTION))
    return expected.expected_flops(config)

  return counted


# 4 x 4 blocks, of which 10 are computed where model FLOPs have half of 16; 11 products where they have 6.
KERNEL = ATTENTION * 11 / 6 * 10 / 8


def test_the_last_product_of_an_mlp_is_not_repeated(count):
  assert count() == pytest.approx(3 * (MLP_PASS + HEAD) + MLP_PASS * 2 / 3 + KERNEL)


def test_experts_repeat_all_their_products(count):
  assert count(**EXPERTS) == pytest.approx(3 * (2 * MLP_PASS + HEAD) + 2 * MLP_PASS + KERNEL)


@pytest.mark.parametrize(
  "changes",
  [
    {"remat_policy": "minimal"},
    {"attention_type": "local_sliding"},
    EXPERTS | {"sparse_matmul": False},
    EXPERTS | {"capacity_factor": 1.25},
  ],
)
def test_what_the_count_is_not_made_for_has_none(count, changes):
  assert count(**changes) is None
