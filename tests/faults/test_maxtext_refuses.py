"""What only MaxText finds wrong, in a real run: one line with its reason first, and what helps."""

import pytest

from tests.hooks.harness import TINY_MODEL

pytestmark = pytest.mark.slow

# Without base_num_kv_heads, which would be checked before MaxText starts.
ON_CPU = [f"{key}={value}" for key, value in TINY_MODEL.items() if key != "base_num_kv_heads"]
ON_DEFAULT_HARDWARE = [word for word in ON_CPU if not word.startswith(("hardware=", "skip_jax"))]
# Arguments -> how the line begins.
CASES = {
  "no accelerator": (
    ON_DEFAULT_HARDWARE,
    "MaxText: coordinator_address should be defined; on a machine without an accelerator add hardware=cpu "
    "skip_jax_distributed_system=True; ",
  ),
  "value": ([*ON_CPU, "decoder_block=lama2"], "MaxText: decoder_block=lama2: unknown, did you mean llama2?; "),
  "heads": (
    ON_CPU,  # with 4 query heads, and the 16 groups of base.yml
    "MaxText: Invalid num_kv_heads for GQA; base_num_query_heads must be a multiple of base_num_kv_heads; ",
  ),
}


def shown_by(nursery, tmp_path, *words) -> str:
  child = nursery.command("train", *words, "run_name=refused", f"base_output_directory={tmp_path}")
  assert child.wait(timeout=300) == 1, child.log.read_text()[-3000:]
  return child.log.read_text()


@pytest.mark.parametrize("case", CASES)
def test_maxtexts_own_error_is_one_line(nursery, tmp_path, case):
  words, says = CASES[case]
  shown = shown_by(nursery, tmp_path, "--progress", *words)
  *before, line = shown.splitlines()
  assert line.startswith(f"maxtext-sparse: error: {says}") and line.endswith("--traceback shows where")
  assert "Traceback" not in shown and "MAXTEXT CONFIG ERROR" not in shown
  assert before == [f"log: {tmp_path}/refused/train.log", "refused: starting MaxText"]


def test_traceback_shows_the_rest(nursery, tmp_path):
  words, _ = CASES["value"]
  shown = shown_by(nursery, tmp_path, "--traceback", *words)
  assert "Traceback (most recent call last)" in shown and "decoder_block" in shown
