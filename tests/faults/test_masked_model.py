"""Gradient norms and the clip scale of real MaxText are those of a model multiplied by explicit masks."""

import numpy as np
import pytest

from tests.faults.harness import branch, SAVING

pytestmark = pytest.mark.slow

# The last event, at step 7, is over; the clip acts.
BEGUN = {"sparsity": 0.8, "gmp_start_step": 4, "gmp_end_step": 7, "gmp_pruning_frequency": 3}
COMMON = SAVING | {"gradient_clipping_threshold": 0.05, "learning_rate_schedule_steps": 20}


@pytest.fixture(scope="module", params=[1, 2], ids=["whole batch", "two microbatches"])
def one_step_more(request, nursery, out, text_data):
  """The same step of the same sparse model, with our hooks, with explicit masks, and with neither."""
  prefix = f"accumulate_{request.param}"
  common = text_data | COMMON | {"gradient_accumulation_steps": request.param, "per_device_batch_size": 8 / request.param}
  nursery.train(out, prefix, **common, steps=10, **BEGUN)
  runs = {}
  for call in ("sparse", "explicit_masks", "stock"):
    branch(out, prefix, f"{prefix}_{call}", last=9)
    keys = BEGUN if call == "sparse" else {}
    runs[call] = nursery.train(out, f"{prefix}_{call}", call=call, **common, steps=11, **keys)
  return runs


def row(run):
  """Metrics of the one step that the run took."""
  last = run.train_rows[-1]
  assert last["step"] == 10
  return last


def first_moments(run):
  found = [leaf for name, leaf in run.leaves.items() if "/mu/" in name]
  assert found
  return found


def test_gradient_norms_are_those_of_the_masked_model(one_step_more):
  sparse, masked, dense = (row(one_step_more[call]) for call in ("sparse", "explicit_masks", "stock"))
  for name in ("learning/loss", "learning/raw_grad_norm", "learning/grad_norm"):
    assert sparse[name] == pytest.approx(masked[name], rel=1e-6), name
  assert dense["learning/raw_grad_norm"] > 1.05 * sparse["learning/raw_grad_norm"]


def test_the_clip_scale_is_that_of_the_masked_model(one_step_more):
  scale = lambda call: row(one_step_more[call])["learning/grad_norm"] / row(one_step_more[call])["learning/raw_grad_norm"]
  assert scale("sparse") < 0.9, "nothing was clipped"
  assert scale("sparse") == pytest.approx(scale("explicit_masks"), rel=1e-6)
  assert scale("stock") < 0.96 * scale("sparse")


def test_the_clipped_gradients_are_those_of_the_masked_model(one_step_more):
  for ours, theirs in zip(first_moments(one_step_more["sparse"]), first_moments(one_step_more["explicit_masks"])):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-9)
