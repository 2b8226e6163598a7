"""`verify` believes nothing: each kind of change to a folder is found and named."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from maxtext_sparse.inspection.verify import verify


@pytest.fixture
def folder(tmp_path, exported):
  return shutil.copytree(exported, tmp_path / "hf")


def problems(folder):
  verdict = verify(str(folder))
  assert verdict.is_ok == (not verdict.problems)
  assert not any("\n" in line for line in verdict.problems)
  return " | ".join(verdict.problems)


def edit_claims(folder, change):
  path = folder / "sparsity.json"
  claims = json.loads(path.read_text())
  change(claims)
  path.write_text(json.dumps(claims))


def shard_of(folder, tensor):
  return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][tensor]


def change_weights(folder, tensor, change):
  """Rewrites the shard with a changed tensor and its new digest in the certificate."""
  from maxtext_sparse.inspection.certificate import weight_files

  shard = folder / shard_of(folder, tensor)
  tensors = {name: np.array(array) for name, array in load_file(shard).items()}
  change(tensors[tensor])
  save_file(tensors, shard, metadata={"format": "pt"})
  edit_claims(folder, lambda claims: claims.update(files=weight_files(str(folder))))


def test_an_export_is_what_it_claims(folder):
  verdict = verify(str(folder))
  assert verdict.is_ok and len(verdict.checks) == 4
  result = verdict.to_dict()
  claims = json.loads((folder / "sparsity.json").read_text())
  for key in ("prunable", "nonzero", "density"):
    assert result[key] == claims[key]
  by_name = lambda matrices: {matrix["name"]: matrix for matrix in matrices}
  assert by_name(result["matrices"]) == by_name(claims["matrices"])


def test_a_flipped_bit_names_the_shard(folder):
  shard = folder / shard_of(folder, "lm_head.weight")
  content = bytearray(shard.read_bytes())
  content[-1] ^= 1
  shard.write_bytes(content)
  assert f"{shard.name}: its content" in problems(folder)


def test_a_shard_that_was_cut_short_is_named(folder):
  shard = folder / shard_of(folder, "lm_head.weight")
  shard.write_bytes(shard.read_bytes()[:-10])
  found = problems(folder)
  assert f"{shard.name}: has " in found and "cut short" in found


def test_a_shard_that_is_missing_is_named(folder):
  shard = shard_of(folder, "lm_head.weight")
  os.unlink(folder / shard)
  assert f"{shard}: claimed, and not in the folder" in problems(folder)


def test_a_weight_that_grew_back_is_found_in_its_matrix(folder):
  def grow(weight):
    weight[tuple(np.argwhere(weight == 0)[0])] = 1e-3

  change_weights(folder, "model.layers.1.mlp.up_proj.weight", grow)
  found = problems(folder)
  assert "nonzero: the certificate claims" in found and "model.layers.1.mlp.up_proj.weight: nonzero is" in found


def test_a_mask_that_moved_is_found_by_its_digest_although_the_counts_agree(folder):
  def swap(weight):
    kept, pruned = tuple(np.argwhere(weight)[0]), tuple(np.argwhere(weight == 0)[0])
    weight[pruned], weight[kept] = weight[kept], 0

  change_weights(folder, "model.layers.1.mlp.up_proj.weight", swap)
  found = problems(folder)
  assert "mask_sha256 is" in found and "the certificate claims" not in found


@pytest.mark.parametrize(
  ("change", "expected"),
  [
    (lambda c: c.update(density=0.1), "density: the certificate claims 0.1"),
    (lambda c: c.update(structures=["2:4"]), "structure 2:4: claimed"),
    (lambda c: c["matrices"].pop(), "the certificate does not mention this matrix"),
    (lambda c: c["matrices"].append({"name": "x.weight"}), "x.weight: claimed, and not in the folder"),
    (lambda c: c.update(format_version=2), "format_version is 2"),
    (lambda c: c["files"].popitem(), "the certificate does not mention this file"),
  ],
)
def test_a_claim_that_is_not_true_is_named(folder, change, expected):
  edit_claims(folder, change)
  assert expected in problems(folder)


def test_a_folder_of_somebody_else_is_counted(tmp_path):
  weight = np.array([[0, 1], [1, 1]], np.float32)
  save_file({"h.0.mlp.weight": weight, "wte.weight": weight}, tmp_path / "model.safetensors")
  verdict = verify(str(tmp_path))
  assert [figure.name for figure in verdict.figures] == ["h.0.mlp.weight"]
  assert verdict.to_dict()["density"] == 0.75
  assert verdict.problems == ["sparsity.json: not there, the folder claims nothing that could be verified"]


def run(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "maxtext_sparse", "verify", *map(str, arguments)], capture_output=True, text=True, check=False
  )


def test_the_command_exits_0_or_1(folder):
  good = run(folder)
  assert good.returncode == 0 and "is what it claims to be" in good.stdout
  edit_claims(folder, lambda claims: claims.update(nonzero=1))
  bad = run(folder, "--json")
  result = json.loads(bad.stdout)
  assert bad.returncode == 1 and result["ok"] is False and "nonzero: the certificate claims 1" in result["problems"][0]


def test_no_folder_is_one_line(tmp_path):
  process = run(tmp_path / "none")
  assert process.returncode == 2 and process.stderr.strip().endswith("no such folder")


def test_verifying_needs_no_jax(folder):
  code = (
    "import sys; sys.modules.update(jax=None, orbax=None, torch=None)\n"
    "from maxtext_sparse.inspection.verify import verify\n"
    "sys.exit(0 if verify(sys.argv[1]).is_ok else 1)"
  )
  assert subprocess.run([sys.executable, "-c", code, folder], check=False).returncode == 0
