"""The cost of a study, alone and with its trunks, against sums by hand."""

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.preflight.estimate import estimate
from maxtext_sparse.preflight.topologies import slice_of
from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.price import price_study

SIZES = {"num_prunable": 10**8, "batch_tokens": 2**20, "flops_per_token": 7e8}
PACE = estimate(7e8, 2**20, 10**8, slice_of("v5e-16"), 0.4)


def make_run(name, kind="run", steps=1000, trunk=None, branch_step=None, num_events=5):
  return Run(name, kind, f"runs/{name}.yml", steps, trunk, branch_step, "0", num_events=num_events, **SIZES)


STUDY = Manifest(
  "study",
  "study",
  "out",
  (
    make_run("trunk", "trunk", steps=301, num_events=1),
    make_run("a", trunk="trunk", branch_step=299),
    make_run("b", trunk="trunk", branch_step=199),
    make_run("dense", num_events=None),
  ),
)


def test_alone_each_run_pays_for_all_its_steps_and_events():
  cost = price_study(STUDY, 16, "v5e-16", 0.4, 1.2).alone
  seconds = 2 * (1000 * PACE.between_events + 5 * PACE.event) + 1000 * PACE.dense
  assert cost.chip_hours == pytest.approx(16 * seconds / 3600)
  assert cost.dollars == pytest.approx(1.2 * cost.chip_hours)


def test_with_trunks_shared_steps_are_paid_for_once():
  cost = price_study(STUDY, 16, "v5e-16", 0.4, None).with_trunks
  steps = 301 + 700 + 800
  seconds = steps * PACE.between_events + 11 * PACE.event + 1000 * PACE.dense
  assert cost.chip_hours == pytest.approx(16 * seconds / 3600)


def test_a_topology_of_another_size_is_refused():
  with pytest.raises(ConfigError, match="has 16 devices, the sweep file says devices: 32"):
    price_study(STUDY, 32, "v5e-16", None, None)
