"""The cost of a study, alone and with its trunks, against sums by hand."""

from pathlib import Path
import re

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.preflight.estimate import estimate
from maxtext_sparse.preflight.topologies import slice_of
from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.price import price_study

SIZES = {"num_prunable": 10**8, "batch_tokens": 2**20, "flops_per_token": 7e8}
# Of one step, dense.
STEP_FLOPS = 6.0 * 10**8 * 2**20
PACE = estimate(7e8, 2**20, 10**8, slice_of("v5e-16"), 0.4)


def make_run(name, kind="run", steps=1000, trunk=None, branch_step=None, num_events=5, dense_steps=400):
  effective = STEP_FLOPS * (dense_steps + (steps - dense_steps) / 4)
  fields = SIZES | {"num_events": num_events, "effective_flops": effective}
  return Run(name, kind, f"runs/{name}.yml", steps, trunk, branch_step, "0", **fields)


STUDY = Manifest(
  "study",
  "study",
  "out",
  (
    make_run("trunk", "trunk", steps=301, num_events=1, dense_steps=301),
    make_run("a", trunk="trunk", branch_step=299),
    make_run("b", trunk="trunk", branch_step=199),
    make_run("dense", num_events=None, dense_steps=1000),
  ),
)


def test_alone_each_run_pays_for_all_its_steps_and_events():
  cost = price_study(STUDY, 16, "v5e-16", 0.4, 1.2).alone.cost
  seconds = 2 * (1000 * PACE.between_events + 5 * PACE.event) + 1000 * PACE.dense
  assert cost.chip_hours == pytest.approx(16 * seconds / 3600)
  assert cost.dollars == pytest.approx(1.2 * cost.chip_hours)


def test_with_trunks_shared_steps_are_paid_for_once():
  cost = price_study(STUDY, 16, "v5e-16", 0.4, None).with_trunks.cost
  steps = 301 + 700 + 800
  seconds = steps * PACE.between_events + 11 * PACE.event + 1000 * PACE.dense
  assert cost.chip_hours == pytest.approx(16 * seconds / 3600)


def test_effective_flops_are_those_of_active_weights_and_actual_ones_of_all():
  study = price_study(STUDY, 16, "v5e-16", 0.4, None)
  # Both branches prune at once at step 400, to a quarter.
  assert study.alone.actual_flops == pytest.approx(3000 * STEP_FLOPS)
  assert study.alone.effective_flops == pytest.approx((2 * (400 + 600 / 4) + 1000) * STEP_FLOPS)
  # The trunk trains 301 dense steps, and its branches 300 and 200 fewer.
  assert study.with_trunks.actual_flops == pytest.approx((301 + 700 + 800 + 1000) * STEP_FLOPS)
  assert study.with_trunks.effective_flops == pytest.approx((301 + 100 + 200 + 2 * 600 / 4 + 1000) * STEP_FLOPS)


def test_a_topology_of_another_size_is_refused():
  with pytest.raises(ConfigError, match="has 16 devices, the sweep file says devices: 32"):
    price_study(STUDY, 32, "v5e-16", None, None)


README = Path(__file__).parents[2] / "configs" / "README.md"
COMMAND = r"sweep make configs/sweeps/{name}\.yml --out {name} --topology (\S+) --price (\S+)"


@pytest.mark.parametrize("name", ["schedules", "law", "released-1b"])
def test_the_table_of_the_readme_has_the_studies_prices(shipped, name):
  text = README.read_text(encoding="utf-8")
  topology, price = re.search(COMMAND.format(name=name), text).groups()
  made = shipped(name)
  study = price_study(made, made.spec["devices"], topology, None, float(price))
  rows = table_rows(text, f"`{name}`, {made.num_runs} runs")
  parts = {"alone": study.alone} | ({"with trunks": study.with_trunks} if made.num_trunks else {})
  assert [row[1] for row in rows] == list(parts) and rows[0][2] == topology
  for row, part in zip(rows, parts.values()):
    ratio = part.actual_flops / part.effective_flops
    flops, cost = (part.effective_flops, part.actual_flops, ratio), part.cost
    shown = [float(cell.replace(",", "")) for cell in row[3:]]
    assert shown == pytest.approx([*flops, cost.hours, cost.chip_hours, cost.dollars], rel=5e-3)


def table_rows(text: str, first: str) -> list[list[str]]:
  """The row of a table that begins so, and the rows below it whose first cell is empty."""
  lines = text.splitlines()
  begin = next(index for index, line in enumerate(lines) if line.startswith(f"| {first} |"))
  cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[begin:]]
  end = next(index for index, row in enumerate(cells) if index and row[0])
  return [row for row in cells[:end] if len(row) > 1]
