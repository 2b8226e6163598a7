"""`preflight` with MaxText's real train step and the TPU compiler, and what it refuses."""

import json
import os
import subprocess
import sys

import pytest

from maxtext_sparse.config import parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.preflight.compare import _PROGRAMS, Comparison, READS_PER_EVENT, Step
from maxtext_sparse.preflight.text import bars
from maxtext_sparse.preflight.topologies import check_topology, hbm_bytes, topologies

TINY = (
  *("base_emb_dim=256", "base_mlp_dim=512", "base_num_decoder_layers=2", "base_num_query_heads=2", "base_num_kv_heads=2"),
  *("head_dim=128", "vocab_size=512", "max_target_length=256", "per_device_batch_size=1", "steps=1000"),
)


def preflight(*arguments: str) -> subprocess.CompletedProcess:
  command = [sys.executable, "-m", "maxtext_sparse", "preflight", *arguments]
  return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


@pytest.fixture(scope="module")
def tiny() -> dict:
  told = preflight(*TINY, "sparsity=0.8", "--topology", "v5e-4", "--json")
  assert told.returncode == 0, told.stderr[-2000:]
  return json.loads(told.stdout)


def test_each_step_tells_its_bytes_flops_and_collectives(tiny):
  for name in ("dense", "between_events", "sparse"):
    step = tiny[name]
    sizes = ("argument_bytes", "temp_bytes", "output_bytes", "flops", "bytes_accessed")
    assert all(step[size] > 0 for size in sizes)
    assert step["collectives"]["all-reduce"]["count"] > 0


def test_the_train_state_of_a_sparse_run_has_the_bytes_of_a_dense_one(tiny):
  assert tiny["sparse"]["argument_bytes"] == tiny["dense"]["argument_bytes"]


def test_sparsity_adds_scalar_all_reduces_only(tiny):
  assert {c["kind"] for c in tiny["added_collectives"]} == {"all-reduce"}
  assert max(c["num_bytes"] for c in tiny["added_collectives"]) <= 1024


def test_the_event_is_the_search_and_costs_less_over_a_period(tiny):
  dense, between = tiny["dense"]["bytes_accessed"], tiny["between_events"]["bytes_accessed"]
  assert between < tiny["sparse"]["bytes_accessed"]
  assert tiny["amortised_bytes"] < tiny["event_bytes"]
  assert tiny["amortised_bytes"] >= between - dense


def test_the_programs_to_compare_with_prune_nothing_whatever_the_rules_are():
  rules = {"sparsity": "0.5", "pruning_structure": "2:4", "steps": "1000"}
  rules |= {"prune_groups": "[{match: mlp, structure: '2:4'}]", "gmp_start_step": "100", "gmp_end_step": "500"}
  assert parse_keys(rules).is_active
  replaced = {name: dict(word.split("=", 1) for word in words) for name, words in _PROGRAMS.items()}
  assert not parse_keys(rules | replaced["dense"]).is_active
  assert parse_keys(rules | replaced["between_events"]).pruning_method == "hold"


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


def test_the_memory_of_every_topology_is_known():
  assert all(hbm_bytes(name) for name in topologies())


DENSE = Step(argument_bytes=1000, temp_bytes=1000, output_bytes=10, flops=1e6, bytes_accessed=1000.0)


@pytest.mark.parametrize(
  ("change", "missed"),
  [
    ({}, None),
    ({"argument_bytes": 2025}, "argument bytes within 1 kB"),
    ({"temp_bytes": 1011}, "temp bytes at most +1 %"),
    ({"flops": 1.0051e6}, "FLOPs at most +0.5 %"),
  ],
)
def test_a_bar_that_is_missed_is_named(change, missed):
  sparse = Step(**{**DENSE.__dict__, **change})
  told = bars(Comparison("v5e-4", 0.8, 100, DENSE, DENSE, sparse))
  assert [name for name, is_met in told.items() if not is_met] == ([missed] if missed else [])


def test_the_cost_of_an_event_is_spread_over_the_period():
  step = lambda num_bytes: Step(bytes_accessed=num_bytes)
  comparison = Comparison("v5e-4", 0.8, 100, step(1000.0), step(1010.0), step(1310.0))
  assert comparison.event_bytes() == 10 + 100 * READS_PER_EVENT
  assert comparison.amortised_bytes() == 10 + READS_PER_EVENT
