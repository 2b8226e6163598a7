"""A checkpoint with a weight that is not finite, or cut short: the run stops and says so, never starts from scratch."""

import pytest

from tests.faults.harness import branch, open_weight, saved_steps, written_rows

pytestmark = pytest.mark.slow

WEIGHT = "decoder/layers/mlp/wi_0/kernel"


def fail(nursery, out, name, **settings) -> str:
  """The log of a run that must stop within two minutes with a status that says so."""
  child = nursery.start(out, name, call="main", **settings)
  assert child.wait(timeout=120) == 1, child.log.read_text()[-3000:]
  return child.log.read_text()


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_weight_that_is_not_finite_in_a_checkpoint_is_named(nursery, out, settings, whole, value):
  name = f"broken_{value}"
  checkpoint = branch(out, "whole", name, last=20)
  weight = open_weight(checkpoint, WEIGHT)
  weight[5, 1, 7] = value
  log = fail(nursery, out, name, **settings)
  line = f"maxtext-sparse: error: step 21: weights are not finite in {WEIGHT}[1]; the mask was left unchanged"
  assert log.splitlines().count(line) == 1
  assert "Traceback" not in log and "completed step" not in log
  assert saved_steps(out, name)[-1] == 20


def test_a_weight_that_stops_being_finite_while_training_is_named_at_the_next_event(nursery, out, settings):
  exploding = {"learning_rate": 1e38, "warmup_steps_fraction": 0.0, "abort_on_nan_loss": False}
  log = fail(nursery, out, "exploding", **(settings | exploding))
  (line,) = [line for line in log.splitlines() if line.startswith("maxtext-sparse: error: ")]
  assert line.startswith("maxtext-sparse: error: step 8: weights are not finite in decoder/")
  assert "Traceback" not in log


DAMAGES = {
  "largest data file": lambda items: max(items.glob("**/d/*"), key=lambda path: path.stat().st_size),
  "manifest": lambda items: items / "manifest.ocdbt",
  "tree of names": lambda items: items / "_METADATA",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_cut_in_half_is_named_with_the_one_before_it(nursery, out, settings, whole, damage):
  name = f"cut_{damage.replace(' ', '_')}"
  checkpoint = branch(out, "whole", name, last=20)
  file = DAMAGES[damage](checkpoint / "items")
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  before = written_rows(out, name)
  log = fail(nursery, out, name, **settings)
  (line,) = [line for line in log.splitlines() if line.startswith("maxtext-sparse: error: ")]
  assert line.startswith(f"maxtext-sparse: error: {checkpoint}: this checkpoint cannot be read with these keys (")
  assert line.endswith("the run then goes on from the checkpoint of step 16") and "Traceback" not in log
  assert "completed step" not in log and written_rows(out, name) == before
  assert saved_steps(out, name)[-1] == 20
