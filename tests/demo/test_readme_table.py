"""The first table of the main README is that of the default demo."""

from pathlib import Path
import re

import pytest

from maxtext_sparse.demo.pipeline import DEFAULT_SPARSITY, DEFAULT_STEPS, run_demo
from maxtext_sparse.demo.training import recipe_file, sparse_schedule, tokens_per_step
from maxtext_sparse.demo.twin import find_twin

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
# Losses of one recipe differ between processors, because XLA compiles other code for each: 3.895 and 3.905 were seen for
# one dense run, and none in three digits on one processor with and without AVX-512. This is three times that difference.
LOSS_TOLERANCE = 0.03


def row(label):
  """The cells of a row: dense, sparse, twin."""
  (line,) = re.findall(rf"^\| {re.escape(label)} \|(.*)\|$", README, re.MULTILINE)
  return [cell.strip() for cell in line.split("|")]


def numbers(label):
  return [float(cell.replace(",", "")) for cell in row(label)]


def test_the_head_of_the_table_names_the_default_length_and_sparsity():
  titles = row(f"{DEFAULT_STEPS} steps of {tokens_per_step():,} tokens")
  assert titles == ["dense", f"sparse {100 * DEFAULT_SPARSITY:g} %", "dense twin"]


def test_the_counts_are_those_of_the_default_schedule():
  schedule = sparse_schedule(DEFAULT_STEPS, DEFAULT_SPARSITY)
  shape, twin = find_twin(recipe_file(), schedule, DEFAULT_STEPS, DEFAULT_SPARSITY)
  average = round(twin.average_params)
  assert numbers("parameters at the end") == [shape.prunable, schedule.keep_counts(shape.prunable)[-1], average]
  assert numbers("average parameters") == [shape.prunable, average, average]
  flops = [6 * size * DEFAULT_STEPS * tokens_per_step() for size in (shape.prunable, twin.average_params)]
  assert numbers("effective FLOPs") == pytest.approx([flops[0], flops[1], flops[1]], rel=5e-3)


def test_the_sentence_is_the_difference_of_the_losses():
  _, sparse, twin = numbers("eval loss (nats per token)")
  _, at_end, twin_size = numbers("parameters at the end")
  gap, side, times = re.search(
    r"ends\s([\d.]+)\s(above|below)\sits\sdense\stwin[^.]*[^,]*,\sand\shas\s([\d.]+)\stimes\sfewer", README
  ).groups()
  assert (float(gap) if side == "above" else -float(gap)) == pytest.approx(sparse - twin, abs=1.1e-3)
  assert float(times) == pytest.approx(twin_size / at_end, abs=0.006)


@pytest.mark.slow
def test_the_default_demo_ends_with_these_losses(tmp_path):
  runs = run_demo(str(tmp_path / "out"), as_json=True)["runs"]
  losses = [runs[name]["eval_loss"] for name in ("dense", "sparse", "twin")]
  assert losses == pytest.approx(numbers("eval loss (nats per token)"), abs=LOSS_TOLERANCE)
  sizes = [runs[name]["export_bytes"] for name in ("dense", "sparse", "twin")]
  assert sizes == numbers("exported bytes (bf16)")
