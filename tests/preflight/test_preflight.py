"""`preflight` with MaxText's real train step and the TPU compiler, and what it refuses."""

import json
import os
import subprocess
import sys

import pytest

from maxtext_sparse.config import parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.preflight.chips import CHIPS
from maxtext_sparse.preflight.collectives import Collective
from maxtext_sparse.preflight.compare import _PROGRAMS, Comparison, Memory, RunFigures, Step
from maxtext_sparse.preflight.roofline import Slice
from maxtext_sparse.preflight.tally import Operation, PASSES, Work
from maxtext_sparse.preflight.text import bars
from maxtext_sparse.preflight.topologies import check_topology

TINY = (
  *("base_emb_dim=256", "base_mlp_dim=512", "base_num_decoder_layers=2", "base_num_query_heads=2", "base_num_kv_heads=2"),
  *("head_dim=128", "vocab_size=512", "max_target_length=256", "per_device_batch_size=1", "steps=1000"),
)


def preflight(*arguments: str) -> subprocess.CompletedProcess:
  command = [sys.executable, "-m", "maxtext_sparse", "preflight", *arguments]
  return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


@pytest.fixture(scope="module")
def tiny() -> dict:
  told = preflight(*TINY, "sparsity=0.8", "--topology", "v5e-4", "--price", "1.2", "--json")
  assert told.returncode == 0, told.stderr[-2000:]
  return json.loads(told.stdout)


# Of a device: two layers with 4 x 256^2 and 3 x 256 x 512 weights, and the head.
NUM_WEIGHTS = (2 * (4 * 256**2 + 3 * 256 * 512) + 256 * 512) // 4
READS = 1 + sum(PASSES.values())


def test_each_step_tells_its_bytes_flops_and_collectives(tiny):
  for name in ("dense", "sparse"):
    step = tiny[name]
    sizes = ("argument_bytes", "temp_bytes", "output_bytes", "flops", "accessed_bytes", "hbm_bytes")
    assert all(step[size] > 0 for size in sizes)
    assert step["collectives"]["all-reduce"]["count"] > 0
    assert step["unknown_loops"] == []


def test_dense_flops_are_those_that_the_config_implies(tiny):
  assert tiny["dense"]["flops"] == pytest.approx(tiny["expected_flops"], rel=0.05)
  assert tiny["sparse"]["flops"] == pytest.approx(tiny["dense"]["flops"], rel=0.005)


def test_the_train_state_of_a_sparse_run_has_the_bytes_of_a_dense_one(tiny):
  assert tiny["sparse"]["argument_bytes"] == tiny["dense"]["argument_bytes"]


def test_sparsity_adds_scalar_all_reduces_only(tiny):
  assert {c["kind"] for c in tiny["added_collectives"]} == {"all-reduce"}
  assert max(c["num_bytes"] for c in tiny["added_collectives"]) <= 1024


def test_an_event_reads_all_weights_in_each_pass(tiny):
  # So small weights are copied once more, into the memory of the core.
  reads = tiny["sparse"]["event_bytes"] / 4 / NUM_WEIGHTS
  assert READS <= reads <= READS * 1.2 + 2
  assert tiny["dense"]["event_bytes"] == tiny["dense"]["mask_bytes"] == 0


def test_the_mask_reads_the_weights_once_or_twice(tiny):
  assert 1 <= tiny["sparse"]["mask_bytes"] / 4 / NUM_WEIGHTS <= 2


def test_times_are_positive_and_the_run_is_priced(tiny):
  pace, run = tiny["pace"], tiny["run"]
  assert min(pace["dense"], pace["mask"], pace["event"]) > 0
  dense = tiny["peak_seconds"]["dense"]
  assert 0 < dense["best"] <= dense["seconds"] <= dense["worst"]
  seconds = 1000 * (pace["dense"] + pace["mask"]) + run["num_events"] * pace["event"]
  assert run["chip_hours"] == pytest.approx(4 * seconds / 3600)
  assert run["dollars"] == pytest.approx(1.2 * run["chip_hours"])
  assert run["tokens_per_step"] == 4 * 256


def test_the_program_to_compare_with_prunes_nothing_whatever_the_rules_are():
  rules = {"sparsity": "0.5", "pruning_structure": "2:4", "steps": "1000"}
  rules |= {"prune_groups": "[{match: mlp, structure: '2:4'}]", "gmp_start_step": "100", "gmp_end_step": "500"}
  assert parse_keys(rules).is_active
  replaced = dict(word.split("=", 1) for word in _PROGRAMS["dense"])
  assert not parse_keys(rules | replaced).is_active


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--topology", "v5e-17", "sparsity=0.8"), "--topology=v5e-17: unknown, did you mean v5e-1"),
    (("--topology", "v5e-4", "sparsity=1.5"), "sparsity=1.5: must"),
    (("--topology", "v5e-4", "sparsity=0.0"), "sparsity=0.0: this run is dense"),
  ],
)
def test_bad_input_ends_with_one_line(arguments, message):
  told = preflight(*TINY, *arguments, "--jobs", "1")
  assert told.returncode == 2
  assert told.stderr.strip().splitlines()[-1].startswith(f"maxtext-sparse: error: {message}")
  assert "Traceback" not in told.stderr


def test_a_wrong_topology_lists_those_of_its_generation():
  with pytest.raises(ConfigError, match=r"v4-\{8, 16, 32, 64, 128, .*4096\}$"):
    check_topology("v4-129")


WHERE = Slice(CHIPS["v5e"], 4, False)
RUN = RunFigures(100, 1000, 10, 4, 4096, model_flops=1e6, expected_flops=None)


def make_step(event_bytes=0, mask_bytes=0, flops=1e6, collective=None, **memory) -> Step:
  sizes = {"argument_bytes": 1000, "temp_bytes": 1000, "output_bytes": 10} | memory
  work = Work(
    (Operation("dot", flops, 5000, 5000, mask_bytes, 1),),
    (Operation("count", 0.0, event_bytes, 0, 0, 1, collective),),
  )
  return Step(Memory(**sizes), work)


def make_comparison(sparse: Step) -> Comparison:
  return Comparison("v5e-4", 0.8, RUN, WHERE, make_step(), sparse)


@pytest.mark.parametrize(
  ("change", "missed"),
  [
    ({}, None),
    ({"argument_bytes": 2025}, "argument bytes within 1 kB"),
    ({"temp_bytes": 1011}, "temp bytes at most +1 %"),
    ({"flops": 1.0051e6}, "FLOPs at most +0.5 %"),
    ({"collective": Collective("all-gather", "f32[20000]", 80_000, "")}, "no added collective over 64 kB"),
  ],
)
def test_a_bar_that_is_missed_is_named(change, missed):
  told = bars(make_comparison(make_step(**change)))
  assert [name for name, is_met in told.items() if not is_met] == ([missed] if missed else [])


def test_what_sparsity_adds_is_read_from_the_sparse_program_alone():
  pace = make_comparison(make_step(event_bytes=819_000, mask_bytes=8190)).pace()
  assert (pace.event, pace.mask) == pytest.approx((1e-6, 1e-8))


def test_a_measured_utilisation_gives_the_time_of_a_step():
  assert make_comparison(make_step()).pace(0.5).dense == pytest.approx(1e6 / (0.5 * 197e12))
