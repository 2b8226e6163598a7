"""Real MaxText training with the plugin: the target is met, whatever the optimizer, precision and mesh."""

import numpy as np
import pytest

from tests.hooks.harness import assert_same_leaves, NUM_PRUNABLE, SPARSE

NUM_KEPT = NUM_PRUNABLE - round(0.8 * NUM_PRUNABLE)


@pytest.mark.release
def test_with_sparsity_0_the_plugin_changes_no_bit(worker, out):
  stock = worker.train(out, "stock", plugin=False)
  hooked = worker.train(out, "hooked", plugin=True)
  assert_same_leaves(stock, hooked)
  assert stock.column("learning/loss") == hooked.column("learning/loss")
  assert not any(key.startswith("pruning/") for row in hooked.rows for key in row)


@pytest.mark.release
def test_the_final_state_has_exactly_the_target_density(sparse_run):
  assert sparse_run.num_prunable() == NUM_PRUNABLE
  assert sparse_run.num_nonzero() == NUM_KEPT
  assert sparse_run.column("pruning/nonzero_prunable")[-1] == NUM_KEPT


@pytest.mark.release
def test_each_event_brings_the_scheduled_count_in_its_own_update(sparse_run):
  counts = sparse_run.column("pruning/nonzero_prunable")
  kept = [NUM_PRUNABLE - round((1 - 0.2 ** (i / 4)) * NUM_PRUNABLE) for i in range(5)]
  expected = [kept[0]] * 4 + [kept[1]] * 3 + [kept[2]] * 3 + [kept[3]] * 3 + [kept[4]] * 7
  assert counts == expected


@pytest.mark.release
def test_nothing_but_linear_kernels_is_pruned(sparse_run):
  untouched = [k for k in sparse_run.weights() if "embedding" in k or "scale" in k]
  assert untouched
  for name in untouched:
    assert np.count_nonzero(sparse_run.leaves[name]) == sparse_run.leaves[name].size, name


@pytest.mark.release
def test_the_optimizer_state_has_the_tree_of_a_dense_run(worker, out, sparse_run):
  dense = worker.train(out, "dense_tree")
  assert {k: v.shape for k, v in sparse_run.leaves.items()} == {k: v.shape for k, v in dense.leaves.items()}


@pytest.mark.release
def test_until_the_first_event_training_is_dense(worker, out, sparse_run):
  dense = worker.train(out, "dense_prefix", eval_interval=6, eval_steps=2)
  # The event at step 4 acts in that step's update: the first loss that sees it is step 5's.
  np.testing.assert_allclose(sparse_run.column("learning/loss")[:5], dense.column("learning/loss")[:5], rtol=1e-6)
  assert sparse_run.column("learning/loss")[5:] != dense.column("learning/loss")[5:]


def test_eight_devices_prune_to_the_same_density_with_the_same_losses(worker8, out, sparse_run):
  sharded = worker8.train(
    out, "sharded", ici_fsdp_parallelism=4, ici_tensor_parallelism=2, eval_interval=6, eval_steps=2, **SPARSE
  )
  assert sharded.column("pruning/nonzero_prunable") == sparse_run.column("pruning/nonzero_prunable")
  np.testing.assert_allclose(sharded.column("learning/loss"), sparse_run.column("learning/loss"), rtol=2e-4)


# Those that change how a step is made up; `test_maxtext_matrix.py` has many more, in the slow set.
VARIANTS = {
  "gradient_accumulation": {"gradient_accumulation_steps": 2, "per_device_batch_size": 4},
  "bf16_weights": {"weight_dtype": "bfloat16"},
  "muon": {"opt_type": "muon"},
  "unscanned": {"scan_layers": False},
  "int8": {"quantization": "int8"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_supported_variant_meets_the_target(worker, out, variant):
  run = worker.train(out, f"variant_{variant}", **(SPARSE | VARIANTS[variant]))
  total = run.num_prunable()
  assert run.column("pruning/prunable")[-1] == total
  assert run.num_nonzero() == total - round(0.8 * total)
  assert run.column("pruning/nonzero_prunable")[-1] == run.num_nonzero()


@pytest.mark.release
def test_skipped_steps_do_not_hold_the_schedule_back(worker, out):
  skipping = {"skip_step_on_spikes": True, "skip_step_interval": 4, "skip_step_scaling_factor": 0.0}
  run = worker.train(out, "skipping", **(SPARSE | skipping))
  assert 1.0 in run.column("optim/step_skipped"), "no step was skipped, so this test shows nothing"
  assert run.num_nonzero() == NUM_KEPT


def test_mixture_of_experts_prunes_the_experts_and_not_the_router(worker, out):
  moe = {"decoder_block": "mixtral", "num_experts": 4, "num_experts_per_tok": 2, "base_moe_mlp_dim": 128}
  run = worker.train(out, "moe", **(SPARSE | moe))
  experts = [k for k in run.prunable() if "MoeBlock_0/w" in k]
  assert len(experts) == 3
  # Each expert of each layer is a matrix of its own.
  named = [name for name in run.event_files()[-1]["matrices"] if "MoeBlock_0/wi_0[" in name]
  assert [name.partition("[")[2] for name in named] == [f"{layer},{e}]" for layer in range(2) for e in range(4)]
  total = run.num_prunable()
  assert run.num_nonzero() == total - round(0.8 * total)
  (router,) = [v for k, v in run.weights().items() if "gate/kernel" in k]
  assert np.count_nonzero(router) == router.size


def test_one_shot_prunes_everything_at_its_start_step(worker, out):
  run = worker.train(out, "one_shot", sparsity=0.5, pruning_method="one-shot", gmp_start_step=6)
  half = NUM_PRUNABLE - round(0.5 * NUM_PRUNABLE)
  assert run.column("pruning/nonzero_prunable") == [NUM_PRUNABLE] * 6 + [half] * 14


def test_excluded_parameters_stay_dense(worker, out):
  run = worker.train(out, "excluded", prune_exclude="[query,logits]", do_not_prune_kw="wo", **SPARSE)
  for name, weight in run.prunable().items():
    left_dense = any(part in name for part in ("query", "logits", "wo/"))
    assert (np.count_nonzero(weight) == weight.size) == left_dense, name
