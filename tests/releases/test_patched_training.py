"""A patched tree trains by itself: `python -m maxtext.trainers.pre_train.train` knows the keys and loads the plugin."""

import importlib.util
import json
from pathlib import Path
import shutil
import site
import subprocess
import sys
import time

import numpy as np
import pytest

from maxtext_sparse.config import KEYS
from maxtext_sparse.patching.tree import Tree
from tests.hooks.harness import arguments, environment, read_rows, SPARSE

pytestmark = pytest.mark.release

TRAINER = "maxtext.trainers.pre_train.train"
SAVED = SPARSE | {
  "enable_checkpointing": True,
  "checkpoint_period": 3,
  "async_checkpointing": False,
  "per_device_batch_size": 8,
}


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
  """A copy of the installed MaxText with the patch set, in a folder for PYTHONPATH."""
  folder = tmp_path_factory.mktemp("patched")
  spec = importlib.util.find_spec("maxtext")
  shutil.copytree(spec.submodule_search_locations[0], folder / "maxtext", ignore=shutil.ignore_patterns("__pycache__"))
  Tree(str(folder)).change("apply")
  return folder


def run(args, folder, module=TRAINER, interpreter=(), path=()):
  variables = environment()
  variables["PYTHONPATH"] = ":".join([str(folder), *path] if path else [str(folder), variables["PYTHONPATH"]])
  command = [sys.executable, *interpreter, "-m", module, *args]
  # Not from the repository: -m would find this package there.
  return subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


def checkpoint(folder, name):
  """Every array in the last checkpoint."""
  import jax
  import orbax.checkpoint as ocp

  tree = ocp.PyTreeCheckpointer().restore(folder / name / "checkpoints" / "19" / "items")
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  is_key = lambda leaf: jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  return {jax.tree_util.keystr(p): np.asarray(jax.random.key_data(x) if is_key(x) else x) for p, x in leaves}


@pytest.fixture(scope="module")
def runs(patched, tmp_path_factory):
  """Folder of the module's runs, with a finished sparse run of the patched tree."""
  folder = tmp_path_factory.mktemp("runs")
  done = run(arguments(folder, "patched", **SAVED), patched)
  assert done.returncode == 0, done.stderr[-3000:]
  return folder


def test_patched_and_hooked_runs_are_bit_identical(runs):
  hooked = run(arguments(runs, "hooked", **SAVED), runs, module="maxtext_sparse.train")
  assert hooked.returncode == 0, hooked.stderr[-3000:]
  assert_same_checkpoints(runs, "patched", "hooked")
  keep = ("learning/loss", "learning/grad_norm", "pruning/nonzero_prunable", "pruning/threshold")
  columns = [[[row[k] for k in keep] for row in read_rows(runs / f"{run}.jsonl")] for run in ("patched", "hooked")]
  assert columns[0] == columns[1]
  assert columns[0][-1][2] == 22938


def test_a_bad_value_ends_a_patched_run_with_one_line(patched, tmp_path):
  done = run([*arguments(tmp_path, "bad"), "sparsity=1.5"], patched)
  assert done.returncode == 2
  assert "maxtext-sparse: error: sparsity=1.5: must be less than 1" in done.stderr and "Traceback" not in done.stderr


def test_without_the_package_sparsity_is_refused_in_one_line_and_0_is_stock(patched, tmp_path):
  bare = tmp_path / "bare"
  bare.mkdir()
  for folder in site.getsitepackages():
    for entry in Path(folder).iterdir():
      if "maxtext_sparse" not in entry.name and entry.name != "maxtext":
        (bare / entry.name).symlink_to(entry)
  # -S: no .pth files, so that an editable install of this package is not found either.
  sparse = run(arguments(tmp_path, "bare", **SPARSE), patched, interpreter=["-S"], path=[str(bare)])
  assert sparse.returncode == 1
  assert sparse.stderr.splitlines()[-1] == "sparsity=0.8: needs the package maxtext-sparse, install it or set sparsity=0"
  dense = run(
    arguments(tmp_path, "dense", steps=3, per_device_batch_size=8), patched, interpreter=["-S"], path=[str(bare)]
  )
  assert dense.returncode == 0, dense.stderr[-2000:]
  assert len(read_rows(tmp_path / "dense.jsonl")) == 3


def test_with_sparsity_0_a_patched_tree_is_stock_bit_for_bit(patched, tmp_path):
  dense = SAVED | {"sparsity": 0.0}
  for name, folder in (("patched_dense", patched), ("stock_dense", tmp_path)):
    done = run(arguments(tmp_path, name, **(dense if folder is patched else stock_only(dense))), folder)
    assert done.returncode == 0, done.stderr[-3000:]
  assert_same_checkpoints(tmp_path, "patched_dense", "stock_dense")


def test_a_killed_patched_run_goes_on_bit_for_bit(patched, runs):
  start_and_kill(arguments(runs, "killed", **SAVED), patched, runs / "killed" / "checkpoints" / "6")
  resumed = run(arguments(runs, "killed", **SAVED), patched)
  assert resumed.returncode == 0, resumed.stderr[-3000:]
  assert_same_checkpoints(runs, "patched", "killed")


def stock_only(settings):
  """Settings that MaxText knows without the patch."""
  return {key: value for key, value in settings.items() if key not in KEYS}


def assert_same_checkpoints(folder, one, other):
  first, second = checkpoint(folder, one), checkpoint(folder, other)
  assert first.keys() == second.keys() and len(first) > 30
  for name, leaf in first.items():
    np.testing.assert_array_equal(leaf, second[name], err_msg=name)


def start_and_kill(args, folder, due):
  """kill -9 as soon as the checkpoint `due` is there."""
  variables = environment()
  variables["PYTHONPATH"] = f"{folder}:{variables['PYTHONPATH']}"
  command = [sys.executable, "-m", TRAINER, *args]
  process = subprocess.Popen(command, env=variables, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 300
  while not due.exists():
    assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
    time.sleep(0.002)
  process.kill()
  process.wait()


@pytest.mark.parametrize("way", ["patched", "hooked"])
@pytest.mark.parametrize("module", ["pre_train.train_compile", "post_train.sft.train_sft_native"])
def test_other_trainers_see_the_keys_both_ways(patched, tmp_path, way, module):
  module = f"maxtext.trainers.{module}"
  args = ["src/maxtext/configs/base.yml", *arguments(tmp_path, way, per_device_batch_size=1, **SPARSE)]
  args += ["prune_include=[nothing_like_this]", *(["use_sft=True"] if "sft" in module else [])]
  if "compile" in module:
    args = [a for a in args if not a.startswith(("hardware", "skip_jax", "metrics_file"))]
    args += ["compile_topology=v5e-16", "compile_topology_num_slices=1"]
  if way == "patched":
    done = run(args, patched, module=module)
  else:
    done = run(["run", module, *args], tmp_path, module="maxtext_sparse")
  assert done.returncode != 0
  assert "prune_include='nothing_like_this': matches none of the 8 prunable parameters" in done.stderr


def test_the_doctor_finds_every_hook_in_a_patched_tree(patched):
  done = run(["doctor", "--json"], patched, module="maxtext_sparse")
  report = json.loads(done.stdout)
  assert done.returncode == 0 and report["works"] and report["patch"] == "applied"
  assert all(hook["signature_as_expected"] for hook in report["hooks"])
