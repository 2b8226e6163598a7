"""What only MaxText finds wrong, in a real run: one line with its reason first, and what helps."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from tests.hooks.harness import TINY_MODEL

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
# Without base_num_kv_heads, which would be checked before MaxText starts.
ON_CPU = [f"{key}={value}" for key, value in TINY_MODEL.items() if key != "base_num_kv_heads"]
# Arguments -> how the line begins.
CASES = {
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


def test_without_a_bar_the_line_stands_alone(tmp_path):
  """In a process that imports MaxText itself, whose log is held back until the run is set up."""
  words = ["train", *CASES["value"][0], "run_name=refused", f"base_output_directory={tmp_path}"]
  command = [sys.executable, "-m", "maxtext_sparse", *words]
  done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=False)
  assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1, done.stderr[-2000:]
  assert done.stderr.startswith("maxtext-sparse: error: MaxText: decoder_block=lama2: unknown, did you mean llama2?; ")


def test_a_machine_without_an_accelerator_is_told_what_to_add(tmp_path):
  """In a process that nobody has told to use the CPU."""
  variables = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
  output = f"base_output_directory={tmp_path}"
  words = ["train", "--progress", "base.yml", "run_name=refused", output]
  command = [sys.executable, "-m", "maxtext_sparse", *words]
  done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=variables, check=False)
  *_, line = done.stderr.splitlines()
  assert (done.returncode, len(done.stderr.splitlines())) == (1, 3), done.stderr[-2000:]
  assert line == (
    "maxtext-sparse: error: MaxText: coordinator_address should be defined; on a machine without an accelerator add "
    "hardware=cpu skip_jax_distributed_system=True; --traceback shows where"
  )
