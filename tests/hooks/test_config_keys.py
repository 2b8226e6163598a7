"""The sparsity keys are valid wherever MaxText takes keys, and a bad value is one line before any device is touched."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from maxtext_sparse.config import DEFAULTS
from tests.hooks.harness import arguments, environment


def config(worker, out, *args, **request):
  return worker.ask("config", [*args, *arguments(out, "config")], **request)


def test_without_any_key_the_defaults_hold(worker, out):
  assert config(worker, out)["value"] == DEFAULTS


def test_every_key_is_taken_from_the_command_line(worker, out):
  given = {
    "sparsity": 0.5,
    "pruning_method": "one-shot",
    "pruning_schedule": "cubic",
    "gmp_pruning_frequency": 2,
    "gmp_start_step": 3,
    "gmp_end_step": 3,
    "gmp_fraction_of": "steps",
    "do_not_prune_kw": "query",
    "prune_include": ["mlp"],
    "prune_exclude": ["wi_0", "wi_1"],
  }
  as_args = [f"{k}={str(v).replace(' ', '') if isinstance(v, list) else v}" for k, v in given.items()]
  assert config(worker, out, *as_args)["value"] == DEFAULTS | given


def test_keys_are_taken_from_a_yaml_chain_and_from_stock_base_yml(worker, out, tmp_path):
  model = tmp_path / "model.yml"
  model.write_text("base_config: base.yml\nsparsity: 0.6\ngmp_pruning_frequency: 2\npruning_structure: none\n")
  value = config(worker, out, str(model))["value"]
  assert (value["sparsity"], value["gmp_pruning_frequency"], value["pruning_structure"]) == (0.6, 2, "none")
  base = worker.ask("config", [stock_base_yml(), "sparsity=0.4", "gmp_pruning_frequency=2", *arguments(out, "c")])
  assert base["value"]["sparsity"] == 0.4


def test_m_variables_reach_every_key_that_is_not_a_list(worker, out):
  variables = {"M_SPARSITY": "0.5", "M_GMP_PRUNING_FREQUENCY": "2", "M_DO_NOT_PRUNE_KW": "wo", "M_GMP_RESCHEDULE": "true"}
  value = config(worker, out, environment=variables)["value"]
  expected = {"sparsity": 0.5, "gmp_pruning_frequency": 2, "do_not_prune_kw": "wo", "gmp_reschedule": True}
  assert value == DEFAULTS | expected


def test_stock_maxtext_still_refuses_our_keys_without_the_plugin(worker, out):
  reply = config(worker, out, "sparsity=0.5", plugin=False)
  assert "sparsity" in reply["message"]


BAD_VALUES = {
  "sparsity=1.0": "sparsity=1.0: must be less than 1",
  "sparsity=-0.1": "sparsity=-0.1: must be greater than or equal to 0",
  "sparsity=lots": "sparsity='lots': must be a valid number",
  "sparsty=0.5": "sparsty=0.5: no such key, did you mean sparsity?",
  "sparsity=0.5 gmp_pruning_frequency=0": "gmp_pruning_frequency=0: must be greater",
  "sparsity=0.5 gmp_start_step=9 gmp_end_step=4": "gmp_end_step=4: must be at least gmp_start_step=9",
  "sparsity=0.5 gmp_start_step=4": "gmp_start_step=4: gmp_end_step is missing",
  "sparsity=0.5 gmp_end_step=4": "gmp_end_step=4: gmp_start_step is missing",
  "sparsity=0.5 gmp_start_step=4 gmp_end_step=21": "gmp_end_step=21: beyond the run, must be at most steps=20",
  "sparsity=0.5 gmp_start_step=20 gmp_end_step=20": "gmp_start_step=20: beyond the run",
  "sparsity=0.5 gmp_dense_fraction=0.6": "the sum is 1.1, must be at most 1",
  "sparsity=0.5 gmp_prune_fraction=-1": "gmp_prune_fraction=-1",
  "sparsity=0.5": "gmp_pruning_frequency=100: longer than the pruning phase",
  "pruning_method=gradual": "pruning_method='gradual': must be 'global_gradual', 'one-shot' or 'hold'",
  "pruning_schedule=square": "pruning_schedule='square': must be",
  "sparsity=0.8 pruning_structure=2:4": "sparsity=0.8: pruning_structure=2:4 makes it 0.5",
  "pruning_structure=4:2": "pruning_structure=",
  "pruning_method=hold sparsity=0.5": "sparsity=0.5: pruning_method=hold keeps the zeros",
  "sparsity=0.5 prune_exclude=[(]": "is not a regular expression",
  "sparsity=0.5 gmp_pruning_frequency=2 enable_diloco=True": "enable_diloco=True: DiLoCo averages",
  "sparsity=0.5 gmp_pruning_frequency=2 weight_sparsity_n=2 weight_sparsity_m=4": "weight_sparsity_n=2",
  "sparsity=0.5 gmp_pruning_frequency=2 enable_rampup_batch_size=True": "enable_rampup_batch_size=True",
  "sparsity=0.5 gmp_pruning_frequency=2 checkpoint_is_quantized=True": "checkpoint_is_quantized=True",
}


@pytest.mark.parametrize("args", BAD_VALUES)
def test_a_bad_value_is_one_line_with_key_and_value(worker, out, args):
  reply = config(worker, out, *args.split())
  assert reply["error"] == "ConfigError", reply
  assert BAD_VALUES[args] in reply["message"]
  assert "\n" not in reply["message"]


def test_a_pattern_that_matches_nothing_is_named(worker, out):
  reply = worker.train_error(out, "no_match", sparsity=0.5, gmp_pruning_frequency=2, prune_include="[attentoin]")
  assert reply["error"] == "ConfigError"
  assert reply["message"].startswith("prune_include='attentoin': matches none of the 8 prunable parameters")


def test_the_command_exits_with_2_and_prints_one_line_and_no_traceback(out):
  command = [sys.executable, "-m", "maxtext_sparse", "train", *arguments(out, "cli"), "sparsity=1.5"]
  done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == 2
  assert "Traceback" not in done.stderr
  ours = [line for line in done.stderr.splitlines() if "maxtext-sparse" in line]
  assert ours == ["maxtext-sparse: error: sparsity=1.5: must be less than 1"]
  assert "jax.devices" not in done.stderr and "Num_devices" not in done.stdout


def test_several_config_files_merge_left_to_right(tmp_path):
  from maxtext_sparse.entry import merged_configs

  first, second = tmp_path / "model.yml", tmp_path / "run.yml"
  first.write_text("steps: 10\nsparsity: 0.2\n")
  second.write_text("sparsity: 0.8\n")
  with merged_configs([str(first), str(second), "steps=3000"]) as merged:
    assert merged[1:] == ["steps=3000"]
    assert Path(merged[0]).read_text().splitlines() == ["steps: 10", "sparsity: 0.8", "base_config: base.yml"]
  assert not os.path.exists(merged[0])


def test_base_yml_is_maxtexts_own_where_there_is_none_here(tmp_path, monkeypatch):
  from maxtext_sparse.entry import merged_configs

  monkeypatch.chdir(tmp_path)
  for name in ("base.yml", "src/maxtext/configs/base.yml"):
    with merged_configs([name, "steps=3"]) as merged:
      assert merged == [stock_base_yml(), "steps=3"]
  (tmp_path / "base.yml").write_text("steps: 1\n")
  with merged_configs(["base.yml"]) as (path,):
    assert Path(path).read_text().splitlines() == ["steps: 1", "base_config: base.yml"]


def stock_base_yml() -> str:
  import importlib.util

  spec = importlib.util.find_spec("maxtext")
  assert spec and spec.submodule_search_locations
  return str(Path(spec.submodule_search_locations[0]) / "configs" / "base.yml")
