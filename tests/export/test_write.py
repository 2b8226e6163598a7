"""The folder that `export` writes, from checkpoints as MaxText lays them out."""

import contextlib
import dataclasses
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from maxtext_sparse.cli.export import _bytes
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.export import aside
from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.export.llama import folder_shapes
from maxtext_sparse.export.text import print_export
from maxtext_sparse.export.write import export_checkpoint, ExportOptions
from maxtext_sparse.inspection.verify import verify
from maxtext_sparse.weights.folder import ModelFolder
from tests.disks import fill, mounted, small_disk
from tests.export.models import config_of, random_parameters, save_model, save_run, SHAPE

__all__ = ["mounted"]


def export(checkpoint, out, *arguments, **options):
  return export_checkpoint(str(checkpoint), str(out), list(arguments), ExportOptions(**options))


def tensors(folder):
  opened = ModelFolder(str(folder))
  return {name: np.array(opened.read(name)) for name in opened.names()}


def test_the_folder_is_what_transformers_looks_for(exported):
  names = set(os.listdir(exported))
  assert {"config.json", "generation_config.json", "README.md", "sparsity.json", "model.safetensors.index.json"} <= names
  index = json.loads((exported / "model.safetensors.index.json").read_text())
  shards = sorted(name for name in names if name.endswith(".safetensors"))
  assert (
    shards[0] == f"model-00001-of-{len(shards):05d}.safetensors" and sorted(set(index["weight_map"].values())) == shards
  )
  config = json.loads((exported / "config.json").read_text())
  assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
  assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (4, 2, 16)
  for shard in shards:
    with safe_open(exported / shard, "np") as file:
      assert file.metadata() == {"format": "pt"}
      assert set(file.keys()) == {name for name, where in index["weight_map"].items() if where == shard}


@pytest.mark.release
def test_every_tensor_has_the_shape_that_the_architecture_asks_for(exported):
  assert {name: array.shape for name, array in tensors(exported).items()} == folder_shapes(SHAPE, has_head=True)


def test_layers_and_layouts_are_where_hugging_face_has_them(exported):
  weights, source = tensors(exported), random_parameters()
  for layer in range(SHAPE.num_layers):
    np.testing.assert_array_equal(
      weights[f"model.layers.{layer}.mlp.up_proj.weight"], source["decoder/layers/mlp/wi_1/kernel"][:, layer].T
    )
    # Rows of a query weight are heads times head_dim; the scale is sqrt(16).
    query = source["decoder/layers/self_attention/query/kernel"][:, layer]
    np.testing.assert_array_equal(weights[f"model.layers.{layer}.self_attn.q_proj.weight"][17], 4 * query[:, 1, 1])
    out = source["decoder/layers/self_attention/out/kernel"][:, layer]
    np.testing.assert_array_equal(weights[f"model.layers.{layer}.self_attn.o_proj.weight"][:, 17], out[1, 1])


def test_a_relative_path_means_the_same_checkpoint(tmp_path, checkpoint, exported, monkeypatch):
  monkeypatch.chdir(checkpoint.parent)
  export(checkpoint.name, tmp_path / "hf")
  np.testing.assert_array_equal(tensors(tmp_path / "hf")["lm_head.weight"], tensors(exported)["lm_head.weight"])


@pytest.mark.release
def test_an_unscanned_checkpoint_gives_the_same_folder(tmp_path, exported):
  stacked = random_parameters()
  single = {}
  for path, value in stacked.items():
    if "decoder/layers/" in path:
      for layer in range(SHAPE.num_layers):
        single[path.replace("layers/", f"layers_{layer}/")] = value[:, layer]
    else:
      single[path] = value
  checkpoint = save_run(tmp_path / "run", single, config_of(SHAPE, is_scanned=False))
  export(checkpoint, tmp_path / "hf")
  for name, array in tensors(tmp_path / "hf").items():
    np.testing.assert_array_equal(array, tensors(exported)[name], err_msg=name)


def test_a_run_folder_means_its_last_checkpoint(tmp_path, checkpoint):
  result = export(checkpoint.parent.parent, tmp_path / "hf")
  assert result.certificate["training"]["step"] == 9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_zeros_stay_zeros_in_every_dtype(tmp_path, checkpoint, exported, dtype):
  result = export(checkpoint, tmp_path / "hf", dtype=dtype)
  for name, array in tensors(tmp_path / "hf").items():
    assert array.dtype.name == dtype
    np.testing.assert_array_equal(array != 0, tensors(exported)[name] != 0)
  assert result.certificate["rounded_to_zero"] == 0


def test_live_weights_that_the_dtype_cannot_hold_are_counted_and_told(tmp_path):
  parameters = random_parameters()
  parameters["decoder/logits_dense/kernel"][:5, 0] = 1e-20
  parameters["decoder/logits_dense/kernel"][5:, 0] = 0
  result = export(save_run(tmp_path / "run", parameters, config_of(SHAPE)), tmp_path / "hf", dtype="float16")
  assert result.certificate["rounded_to_zero"] == 5
  assert any("5 live weights" in note and "float16" in note for note in result.notes)


@pytest.mark.release
@pytest.mark.parametrize("options", [{}, {"is_compressed": True}, {"shard_bytes": 20_000}])
def test_a_bitmask_folder_holds_the_same_weights(tmp_path, checkpoint, exported, options):
  result = export(checkpoint, tmp_path / "hf", weights_format="bitmask", **options)
  found = tensors(tmp_path / "hf")
  for name, array in tensors(exported).items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)
  assert not list((tmp_path / "hf").glob("model*")), "transformers must not take these for dense weights"
  assert verify(str(tmp_path / "hf")).is_ok
  assert result.linear_bytes < 0.5 * 4 * result.certificate["prunable"]


def test_a_bfloat16_checkpoint_is_written_in_bfloat16_without_change(tmp_path):
  checkpoint = save_model(tmp_path / "run", dtype="bfloat16")
  export(checkpoint, tmp_path / "hf")
  source = random_parameters(dtype="bfloat16")
  weights = tensors(tmp_path / "hf")
  assert weights["lm_head.weight"].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(weights["lm_head.weight"], source["decoder/logits_dense/kernel"].T)


def test_a_tied_head_becomes_a_head_of_its_own_except_in_bfloat16(tmp_path):
  tied = dataclasses.replace(SHAPE, is_tied=True)
  checkpoint = save_model(tmp_path / "run", tied)
  wide = export(checkpoint, tmp_path / "wide")
  narrow = export(checkpoint, tmp_path / "narrow", dtype="bfloat16")
  assert any("the tied head" in note for note in wide.notes) and not narrow.notes[1:]
  embedding = random_parameters(tied)["token_embedder/embedding"]
  rounded = embedding.astype(ml_dtypes.bfloat16).astype(np.float32)
  np.testing.assert_array_equal(tensors(tmp_path / "wide")["lm_head.weight"], rounded)
  assert not json.loads((tmp_path / "wide" / "config.json").read_text())["tie_word_embeddings"]
  assert "lm_head.weight" not in tensors(tmp_path / "narrow")
  assert json.loads((tmp_path / "narrow" / "config.json").read_text())["tie_word_embeddings"]


def test_the_config_that_the_run_recorded_counts_and_keys_override_it(tmp_path, checkpoint):
  export(checkpoint, tmp_path / "hf", "rope_max_timescale=5e5", "max_target_length=128")
  config = json.loads((tmp_path / "hf" / "config.json").read_text())
  assert (config["rope_theta"], config["max_position_embeddings"], config["rms_norm_eps"]) == (5e5, 128, 1e-5)


def test_one_array_of_the_checkpoint_is_in_memory_at_a_time(tmp_path, checkpoint, monkeypatch):
  """Reading takes up to twice the array; with the one before, a bfloat16 export would exceed 1.2 times its size."""
  usual, latest = Checkpoint.read, []

  def read(self, path):
    assert not latest or latest.pop()() is None, f"the array before {path} is still held"
    array = usual(self, path).copy()
    latest.append(weakref.ref(array))
    return array

  monkeypatch.setattr(Checkpoint, "read", read)
  export(checkpoint, tmp_path / "hf")
  assert latest


def one_line(error):
  assert "\n" not in str(error.value)
  return str(error.value)


def test_bad_input_is_one_line_that_says_what_is_wrong(tmp_path, checkpoint):
  out = tmp_path / "hf"
  for arguments, options, expected in [
    (
      ["mlp_dim=65"],
      {},
      "decoder/layers/mlp/wi_0/kernel: the checkpoint has shape [32, 3, 64], the config makes it [32, 3, 65]",
    ),
    (["num_kv_heads=4"], {}, "decoder/layers/self_attention/key/kernel"),
    (["logits_via_embedding=True"], {}, "decoder/logits_dense/kernel: the checkpoint"),
    (["scan_layers=False"], {}, "decoder/layers_0/"),
    (["decoder_block=gpt3"], {}, "model_name=default: not exported; the LLaMA-2 family and gemma2-*"),
    (["rope_type=yarn"], {}, "rope_type=yarn"),
    (["headdim=3"], {}, "did you mean head_dim?"),
    ([], {"dtype": "int8"}, "--dtype=int8: must be float32"),
    ([], {"weights_format": "csr"}, "--format=csr: must be dense or bitmask"),
    ([], {"is_compressed": True}, "--compress"),
  ]:
    with pytest.raises(ConfigError) as error:
      export(checkpoint, out, *arguments, **options)
    assert expected in one_line(error)
    assert not out.exists()


def test_a_checkpoint_that_was_never_finished_is_refused(tmp_path, checkpoint):
  for where in ("none", "checkpoints/9.orbax-checkpoint-tmp-3"):
    with pytest.raises(ConfigError, match=r"no such checkpoint|never finished"):
      export(tmp_path / where, tmp_path / "hf")
  half = tmp_path / "run" / "checkpoints" / "9"
  shutil.copytree(checkpoint, half)
  (half / "items" / "_METADATA").unlink()
  with pytest.raises(ConfigError, match="never finished"):
    export(half, tmp_path / "hf")


def test_a_checkpoint_whose_data_are_gone_is_refused(tmp_path, checkpoint):
  half = tmp_path / "run" / "checkpoints" / "9"
  shutil.copytree(checkpoint.parent.parent, tmp_path / "run", dirs_exist_ok=True)
  for data in half.glob("items/**/d/*"):
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
  with pytest.raises(ConfigError) as error:
    export(half, tmp_path / "hf")
  assert "cannot read" in one_line(error) or "can be read" in one_line(error)
  assert os.listdir(tmp_path) == ["run"]


def test_what_is_there_is_replaced_only_by_force_and_only_a_model(tmp_path, checkpoint):
  out = tmp_path / "hf"
  export(checkpoint, out)
  before = (out / "sparsity.json").read_text()
  with pytest.raises(ConfigError, match="--force"):
    export(checkpoint, out)
  export(checkpoint, out, dtype="bfloat16", is_forced=True)
  assert (out / "sparsity.json").read_text() != before
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "thesis.tex").write_text("years of work")
  with pytest.raises(ConfigError, match=r"no config\.json in it"):
    export(checkpoint, tmp_path / "other", is_forced=True)
  assert sorted(os.listdir(tmp_path)) == ["hf", "other"]


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, checkpoint, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(aside.shutil, "disk_usage", lambda path: usage._replace(free=1000))
  with pytest.raises(ConfigError, match="1,000 bytes free"):
    export(checkpoint, tmp_path / "hf")
  assert not os.listdir(tmp_path)


def test_a_real_disk_that_fills_up_in_the_middle_is_one_line_and_leaves_nothing_behind(tmp_path, checkpoint, mounted):
  disk = small_disk(mounted, tmp_path / "disk", 64)
  with pytest.raises(ConfigError, match="cannot write there \\(no space left on that disk\\)"):
    export_checkpoint(str(checkpoint), str(disk / "hf"), [], report=lambda done, total: fill(disk))
  assert os.listdir(disk) == ["filler"]


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, checkpoint):
  """A file size limit stands for a full disk: the kernel refuses the write in the same place."""
  code = (
    "import resource, signal, sys\n"
    "from maxtext_sparse.cli import app\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
    "app(['export', sys.argv[1], sys.argv[2]])\n"
  )
  process = subprocess.run(
    [sys.executable, "-c", code, checkpoint, tmp_path / "hf"], capture_output=True, text=True, check=False
  )
  assert process.returncode == 2 and "cannot write there" in process.stderr.strip().splitlines()[-1]
  assert not os.listdir(tmp_path)


def test_killed_in_the_middle_it_leaves_nothing_that_looks_finished(tmp_path, checkpoint):
  code = (
    "import os, signal, sys\n"
    "from maxtext_sparse.export.write import export_checkpoint\n"
    "def report(done, total):\n"
    "  if done > total / 2: os.kill(os.getpid(), signal.SIGKILL)\n"
    "export_checkpoint(sys.argv[1], sys.argv[2], [], report=report)\n"
  )
  process = subprocess.run([sys.executable, "-c", code, checkpoint, tmp_path / "hf"], check=False)
  assert process.returncode == -signal.SIGKILL
  (left,) = os.listdir(tmp_path)
  assert left.startswith(".hf.unfinished-") and not list((tmp_path / left).glob("*.safetensors"))
  export(checkpoint, tmp_path / "hf")
  assert os.listdir(tmp_path) == ["hf"]


def run_at_a_terminal(*arguments):
  """Exit status, stdout, and what a terminal would get on stderr."""
  terminal, stderr = pty.openpty()
  shown = []

  def watch():
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
      while part := os.read(terminal, 4096):
        shown.append(part)

  watcher = threading.Thread(target=watch)
  watcher.start()
  command = [sys.executable, "-m", "maxtext_sparse", *map(str, arguments)]
  environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
  process = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False, env=environment)
  os.close(stderr)
  watcher.join()
  os.close(terminal)
  return process.returncode, process.stdout, b"".join(shown).decode()


def test_the_command_prints_one_json_object_and_shows_a_bar_at_a_terminal(tmp_path, checkpoint):
  start = time.monotonic()
  status, stdout, shown = run_at_a_terminal("export", checkpoint, tmp_path / "hf", "--json", "--shard-size", "60K")
  assert status == 0, shown
  result = json.loads(stdout)
  assert result["density"] == result["nonzero"] / result["prunable"]
  assert result["weight_bytes"] == result["dense_bytes"] and len(result["files"]) > 1
  assert "exporting" in shown and "100%" in shown
  assert time.monotonic() - start < 60, "a recorded config needs no MaxText"


@pytest.mark.parametrize(("size", "expected"), [("60K", 60_000), ("1.5MB", 1_500_000), ("5g", 5 * 10**9), ("12", 12)])
def test_sizes_of_shards(size, expected):
  assert _bytes(size) == expected


@pytest.mark.parametrize("size", ["0", "-5M", "5X", "big", ""])
def test_a_shard_size_that_is_none_is_one_line(size):
  with pytest.raises(ConfigError, match=f"--shard-size={size}: must be a size such as 500M or 5G"):
    _bytes(size)


def test_all_sizes_are_printed_and_are_those_of_the_files(tmp_path, checkpoint, capsys):
  """Dense, bitmask, and bitmask with zstd, whichever is written."""
  results = {
    "dense": export(checkpoint, tmp_path / "dense", dtype="bfloat16"),
    "bitmask": export(checkpoint, tmp_path / "bitmask", dtype="bfloat16", weights_format="bitmask"),
  }
  zstd = export(checkpoint, tmp_path / "zstd", dtype="bfloat16", weights_format="bitmask", is_compressed=True)
  tensor_bytes = {
    name: sum(file["bytes"] for file in result.certificate["files"].values()) for name, result in results.items()
  }
  for result in (*results.values(), zstd):
    assert result.dense_bytes == results["dense"].weight_bytes < tensor_bytes["dense"]
    assert result.bitmask_bytes == results["bitmask"].weight_bytes < tensor_bytes["bitmask"]
  print_export("out", zstd)
  printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
  assert f"bytes, dense {zstd.dense_bytes:,}, 1.000 of dense" in printed
  assert f"bytes, bitmask {zstd.bitmask_bytes:,}, {zstd.bitmask_bytes / zstd.dense_bytes:.3f} of dense" in printed
  share = f"{zstd.weight_bytes / zstd.dense_bytes:.3f} of dense (written)"
  assert f"bytes, bitmask with zstd {zstd.weight_bytes:,}, {share}" in printed
