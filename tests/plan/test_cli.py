"""`plan` and `params` on the command line: JSON alone on stdout, text for people, one line for bad input."""

import json
import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from maxtext_sparse.cli import app

SMALL = ["base_emb_dim=64", "base_mlp_dim=128", "base_num_query_heads=4", "base_num_kv_heads=4", "head_dim=16"]
SMALL += ["base_num_decoder_layers=2", "vocab_size=512", "max_target_length=128", "per_device_batch_size=4"]


def call(*arguments, status=0):
  result = CliRunner().invoke(app, [str(argument) for argument in arguments])
  assert result.exit_code == status, result.output
  return result


def planned(*arguments):
  return json.loads(call("plan", "--json", *arguments).stdout)


@pytest.mark.parametrize("command", ["plan", "params"])
def test_help_has_an_example(command):
  assert f"Example: maxtext-sparse {command} " in call(command, "--help").stdout


def test_stdout_of_a_real_process_is_one_json_object_and_no_accelerator_is_looked_for():
  arguments = [sys.executable, "-m", "maxtext_sparse", "plan", *SMALL, "steps=1000", "sparsity=0.5", "--json"]
  environment = {key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"}
  process = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
  assert json.loads(process.stdout)["steps"] == 1000
  assert process.stdout.count("\n") == 1
  assert "tpu" not in process.stderr.lower()


def test_options_and_keys_say_the_same():
  options = planned("--steps", 10000, "--sparsity", 0.6, "--dense-fraction", 0.5, "--prune-fraction", 0.25)
  keys = planned("steps=10000", "sparsity=0.6", "gmp_dense_fraction=0.5", "gmp_prune_fraction=0.25")
  spelt = planned("--steps", 10000, "-s", 0.6, "--gmp_dense_fraction", 0.5, "--gmp_prune_fraction", 0.25)
  assert options == {key: keys[key] for key in options} == spelt


def test_every_option_reaches_its_key():
  cubic = planned("--steps", 1000, "-s", 0.5, "--schedule", "cubic", "--frequency", 50, "--fraction-of", "steps")
  assert (cubic["gmp_start_step"], cubic["gmp_end_step"], cubic["num_pruning_events"]) == (250, 750, 11)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_longest_run_is_planned_in_seconds(form):
  began = time.process_time()
  call("plan", "--steps", 10**8, "--batch", "2M", "--prunable", "138M", "-s", 0.5, *form)
  assert time.process_time() - began < 10  # half a million events; a loop over all steps takes a minute


def test_token_and_flop_budgets_report_the_steps_they_buy():
  tokens = planned("--tokens", "33.5B", "--batch", 2097152, "-s", 0.8)
  assert (tokens["steps"], tokens["tokens"]) == (15974, 15974 * 2097152)
  flops = planned("--flops", "1e19", "--batch", 2097152, "--prunable", "138M", "-s", 0.8)
  assert 0.99e19 < flops["effective_flops"] <= 1e19


def test_a_config_gives_steps_batch_length_and_size():
  content = planned(*SMALL, "steps=1000", "sparsity=0.5", "--chips", 2)
  assert content["tokens"] == 1000 * 2 * 4 * 128
  assert content["effective_flops"] == pytest.approx(
    6 * content["tokens"] * content["average_density"] * 114_688, rel=1e-5
  )


def test_budgets_replace_the_configs_own_length():
  fixed = [*SMALL, "steps=10", "--chips", 1, "-s", 0.5]
  assert planned(*fixed, "--tokens", "1M")["steps"] == 1_000_000 // 512
  assert planned(*fixed, "--flops", "1e12")["effective_flops"] <= 1e12
  assert planned(*fixed, "--steps", 2000)["gmp_start_step"] > 0


def test_params_json():
  content = json.loads(call("params", *SMALL, "--json").stdout)
  assert content["prunable"] == 114_688
  assert len(content["matrices"]) == 15


def test_text_of_params_marks_what_is_pruned():
  text = call("params", *SMALL).stdout
  assert "decoder/logits_dense/kernel" in text and "114,688" in text
  rows = {line.split()[0]: line for line in text.splitlines() if "kernel" in line}
  # From the axes that a product sums over, the last of which n:m divides, to the others.
  assert " 64 -> 4 x 16 " in rows["decoder/layers/self_attention/query/kernel"]
  assert " 4 x 16 -> 64 " in rows["decoder/layers/self_attention/out/kernel"]


def test_text_of_plan_has_phases_plot_and_costs():
  text = call("plan", *SMALL, "steps=72200", "sparsity=0.5", "--chips", 1).stdout
  for part in ("12500..47199", "25.0%", "114.7K -> 57.34K", "┤█", "effective FLOPs", "1.44x", "1.39x"):
    assert part in text, part
  assert "note:" not in text
  assert "give --chips" in call("plan", *SMALL, "steps=72200", "sparsity=0.5").stdout


def test_picture(tmp_path):
  call("plan", "--steps", 1000, "-s", 0.5, "--plot", tmp_path / "plan.png")
  assert (tmp_path / "plan.png").stat().st_size > 10_000


def test_twins_of_one_sparsity_and_of_the_papers_four():
  one = json.loads(call("plan", "--twin", *SMALL, "steps=10000", "-s", 0.4, "--json").stdout)
  assert one["gmp_start_step"] > 0 and [twin["sparsity"] for twin in one["twins"]] == [0.4]
  four = json.loads(call("plan", "--twin", *SMALL, "steps=10000", "--json").stdout)
  assert [twin["sparsity"] for twin in four["twins"]] == [0.2, 0.4, 0.6, 0.8]
  for twin in four["twins"]:
    sizes = [neighbour["num_prunable"] for neighbour in twin["neighbours"]]
    assert sizes == sorted(sizes) and sizes[0] <= twin["average_params"] <= sizes[-1]


def test_the_overrides_of_a_twin_run_as_they_are_printed():
  (twin,) = json.loads(call("plan", "--twin", *SMALL, "steps=10000", "-s", 0.4, "--json").stdout)["twins"]
  for neighbour in twin["neighbours"]:
    rest = [a for a in SMALL if a.partition("=")[0] not in ("base_emb_dim", "base_mlp_dim", "head_dim")]
    content = json.loads(call("params", *rest, *neighbour["overrides"], "--json").stdout)
    assert content["prunable"] == neighbour["num_prunable"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--steps", 72200, "-s", 0], "sparsity=0: a dense run"),
    (["--steps", 72200, "-s", 1], "sparsity=1.0: must be less than 1"),
    (["--steps", 72200, "-s", 0.5, "--dense-fraction", 0.8], "the sum is 1.3, must be at most 1"),
    (["--steps", 50, "-s", 0.5], "longer than the pruning phase of 24 steps (steps=50)"),
    (["--steps", 72200, "-s", 0.5, "--frequency", 50000], "gmp_pruning_frequency=50000: longer than the pruning phase"),
    (["--steps", 0, "-s", 0.5], "steps=0: must be a positive number"),
    (["--steps", 10, "--tokens", "1B", "-s", 0.5], "keep one"),
    (["-s", 0.5], "the length of the run is missing"),
    (["--steps", 1000, "-s", 0.5, "gmp_prune_fractoin=0.5"], "did you mean gmp_prune_fraction?"),
    (["--flops", "1e12", "--batch", "2M", "--prunable", "138M", "-s", 0.5], "too small for a run"),
    (["model_name=lama2-7b", "-s", 0.5], "did you mean llama2-7b?"),
    (["base.yml", "--prunable", "1M", "vocab_size=512", "-s", 0.5], "CONFIG has its own"),
    (["--twin", "vocab_size=512", "--plot", "x.png"], "leave out --twin"),
  ],
)
def test_bad_input_is_one_line(arguments, message):
  result = call("plan", *arguments, status=2)
  assert result.stdout == ""
  assert result.stderr.startswith("maxtext-sparse: error: ") and result.stderr.count("\n") == 1
  assert message in result.stderr


def test_a_topology_adds_hours_and_cost_by_phase():
  told = planned(*SMALL, "steps=1000", "sparsity=0.8", "--topology", "v5e-16", "--mfu", 0.5, "--price", 2.0)["cost"]
  phases = told["phases"]
  assert list(phases) == ["dense", "pruning", "recovery"]
  assert told["chip_hours"] == pytest.approx(16 * told["hours"]) == pytest.approx(told["dollars"] / 2)
  assert sum(phase["hours"] for phase in phases.values()) == pytest.approx(told["hours"])
  # 6 N a token, N = 2 x (4 x 64^2 + 3 x 64 x 128) + 64 x 512, and half of 12 x 2 layers x 64 x 128 for attention.
  flops = 6 * (2 * (4 * 64**2 + 3 * 64 * 128) + 64 * 512) + 6 * 2 * 64 * 128
  assert told["pace"]["dense"] == pytest.approx(flops * 4 * 128 / (0.5 * 197e12))


def test_a_topology_needs_a_model_and_no_chips():
  assert "give a CONFIG" in call("plan", "--steps", 1000, "-s", 0.5, "--topology", "v5e-16", status=2).stderr
  told = call("plan", *SMALL, "steps=1000", "-s", 0.5, "--topology", "v5e-16", "--chips", 8, status=2)
  assert "--chips=8: v5e-16 has its own number of devices" in told.stderr
