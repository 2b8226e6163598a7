"""Scopes, structures, scores and groups in MaxText's own train loop: exact counts, and what each rule promises."""

import numpy as np
import pytest

from tests.hooks.harness import NUM_PRUNABLE, SPARSE

EVENTS = {key: value for key, value in SPARSE.items() if key != "sparsity"}
HEAD = 64 * 512


def kernel(run, name: str) -> np.ndarray:
  (found,) = [weight for path, weight in run.prunable().items() if name in path]
  return found


@pytest.fixture(scope="module")
def train(worker, out):
  return lambda name, **keys: worker.train(out, f"rule-{name}", **EVENTS, **keys)


def test_per_matrix_prunes_every_layer_to_the_same_density(train):
  run = train("per-matrix", sparsity=0.75, pruning_scope="per_matrix")
  densities = run.event_files()[-1]["matrices"]
  assert len(densities) == 2 * 7 + 1 and set(densities.values()) == {0.25}
  assert run.column("pruning/min_matrix_density")[-1] == 0.25


def test_erk_meets_the_total_and_prunes_large_matrices_most(train):
  run = train("erk", sparsity=0.75, pruning_scope="erk")
  densities = run.event_files()[-1]["matrices"]
  assert run.num_nonzero() == NUM_PRUNABLE // 4
  assert min(densities, key=densities.get).endswith("logits_dense/kernel")


@pytest.mark.release
def test_two_of_four_complies_in_every_group_along_the_contraction_axis(train):
  run = train("2-4", pruning_structure="2:4")
  assert run.num_nonzero() == NUM_PRUNABLE // 2
  mlp = kernel(run, "wi_0")  # (emb, layers, mlp)
  groups = np.moveaxis(mlp, 0, -1).reshape(-1, 4)
  np.testing.assert_array_equal(np.count_nonzero(groups, axis=1), 2)
  out = kernel(run, "out/kernel")  # (heads, layers, head_dim, emb): groups within head_dim
  groups = np.moveaxis(out, 2, -1).reshape(-1, 4)
  np.testing.assert_array_equal(np.count_nonzero(groups, axis=1), 2)
  assert run.column("pruning/target_density")[-1] == 0.5


def test_blocks_live_or_go_as_a_whole(train):
  run = train("block", sparsity=0.5, pruning_structure="block:8x16")
  head = kernel(run, "logits_dense")
  blocks = head.reshape(8, 8, 32, 16).swapaxes(1, 2).reshape(-1, 128)
  assert set(np.count_nonzero(blocks, axis=1)) <= {0, 128}
  assert run.num_nonzero() == NUM_PRUNABLE // 2


def test_rms_scores_leave_the_query_kernels_their_share(train, sparse_run):
  by_rms = train("rms", sparsity=0.8, pruning_score="magnitude_rms")
  share = lambda run: np.count_nonzero(kernel(run, "query/kernel")) / kernel(run, "query/kernel").size
  assert share(by_rms) > 2 * share(sparse_run)
  assert by_rms.num_nonzero() == sparse_run.num_nonzero()


def test_a_floor_holds_for_every_matrix(train, sparse_run):
  run = train("floor", sparsity=0.8, min_matrix_density=0.15)
  assert sparse_run.column("pruning/min_matrix_density")[-1] < 0.15
  assert run.column("pruning/min_matrix_density")[-1] >= 0.15
  assert run.num_nonzero() == sparse_run.num_nonzero()


@pytest.mark.release
def test_groups_follow_their_own_rules(train):
  groups = "[{match: mlp, structure: '2:4'}, {match: logits_dense, sparsity: 0}, {match: query, scope: per_matrix}]"
  run = train("groups", sparsity=0.75, prune_groups=groups)
  weights = run.prunable()
  share = lambda name: np.mean([np.count_nonzero(w) / w.size for path, w in weights.items() if name in path])
  assert share("mlp") == 0.5 and share("logits_dense") == 1.0 and share("query") == 0.25
  assert run.column("pruning/prunable")[-1] == NUM_PRUNABLE - HEAD
  live = sum(np.count_nonzero(w) for path, w in weights.items() if "logits_dense" not in path)
  assert run.column("pruning/nonzero_prunable")[-1] == live == 2 * (3 * 64 * 128 // 2 + 4 * 64 * 64 // 4)


def test_random_scores_and_a_users_function_train(train):
  for name, score in (("random", "random"), ("user", "tests.hooks.test_rules:saliency")):
    assert train(name, sparsity=0.75, pruning_score=score).num_nonzero() == NUM_PRUNABLE // 4


def saliency(weight, parameter, gradient):
  """The score that `maxtext_sparse/README.md` shows."""
  import jax.numpy as jnp

  del parameter
  return jnp.abs(weight * gradient)


def test_one_shot_and_two_of_four_go_together(train, worker, out):
  run = worker.train(
    out, "rule-one-shot-2-4", pruning_structure="2:4", pruning_method="one-shot", gmp_start_step=5, steps=8
  )
  assert run.column("pruning/density") == [1.0] * 5 + [0.5] * 3


@pytest.mark.parametrize("keys", [{"pruning_structure": "3:6"}, {"sparsity": 0.5, "pruning_structure": "block:48x8"}])
def test_a_structure_that_does_not_divide_the_model_is_refused_by_name(worker, out, keys):
  error = worker.train_error(out, "rule-bad", **EVENTS, **keys)
  assert error["error"] == "ConfigError"
  assert "does not divide the 64 weights along the contraction axis of decoder/" in error["message"]


@pytest.mark.parametrize("keys", [{"pruning_scope": "per_matrix"}, {"pruning_structure": "2:4", "sparsity": 0.5}])
def test_eight_devices_keep_the_counts_of_one(worker, worker8, out, keys):
  settings = SPARSE | {"steps": 8, "gmp_end_step": 7} | keys
  one = worker.train(out, f"rule-one-{len(keys)}", **settings)
  eight = worker8.train(out, f"rule-eight-{len(keys)}", ici_fsdp_parallelism=4, ici_tensor_parallelism=2, **settings)
  assert [e["nonzero_prunable"] for e in one.event_files()] == [e["nonzero_prunable"] for e in eight.event_files()]
  assert one.event_files()[0]["matrices"] == eight.event_files()[0]["matrices"]
