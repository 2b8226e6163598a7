"""`inspect` on folders and on checkpoints."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inspection.survey import compare, draw, survey, warnings
from tests.export.models import config_of, random_parameters, save_run, SHAPE


def test_a_checkpoint_and_its_export_have_the_same_matrices(checkpoint, exported):
  from_checkpoint, _ = survey(str(checkpoint))
  from_folder, _ = survey(str(exported))
  for key in ("prunable", "nonzero", "density"):
    assert from_checkpoint[key] == from_folder[key]
  digests = lambda result: sorted(row["mask_sha256"] for row in result["matrices"])
  assert digests(from_checkpoint) == digests(from_folder)
  assert "decoder/layers/self_attention/out/kernel[2]" in [row["name"] for row in from_checkpoint["matrices"]]


def broken_model(tmp_path):
  parameters = random_parameters()
  parameters["decoder/layers/self_attention/query/kernel"][:, 0, 2] = 0  # layer 0, head 2
  parameters["decoder/layers/self_attention/out/kernel"][1, 1] = 0  # layer 1, head 1
  parameters["decoder/layers/mlp/wi_0/kernel"][:, 2, 5] = 0  # layer 2, neuron 5
  parameters["decoder/layers/mlp/wo/kernel"][:, 1] = 0  # layer 1
  parameters["decoder/layers/mlp/wi_1/kernel"][:, 0] = 0
  parameters["decoder/layers/mlp/wi_1/kernel"][0, 0, 0] = 1
  parameters["decoder/logits_dense/kernel"][3, 4] = np.nan
  return save_run(tmp_path / "broken", parameters, config_of(SHAPE))


def test_dead_parts_are_counted_and_collapse_is_a_warning(tmp_path):
  result, _ = survey(str(broken_model(tmp_path)))
  rows = {row["name"]: row for row in result["matrices"]}
  assert rows["decoder/layers/self_attention/query/kernel[0]"]["dead_heads"] == 1
  assert rows["decoder/layers/self_attention/out/kernel[1]"]["dead_heads"] == 1
  assert rows["decoder/layers/mlp/wi_0/kernel[2]"]["dead_rows"] >= 1
  assert rows["decoder/layers/mlp/wo/kernel[1]"]["nonzero"] == 0
  text = " | ".join(result["warnings"])
  assert "decoder/layers/mlp/wo/kernel[1]: every weight is zero" in text
  assert "decoder/layers/mlp/wi_1/kernel[0]: has collapsed, 0.05%" in text
  assert "decoder/logits_dense/kernel: 1 weights are NaN or infinite" in text
  assert "query/kernel[0]: 1 attention heads are all zero" in text


def test_densities_by_layer_and_by_matrix_are_those_of_their_weights(checkpoint):
  result, _ = survey(str(checkpoint))
  live = {"-": [], "0": [], "1": [], "2": []}
  for row in result["matrices"]:
    layer = row["name"].rpartition("[")[2].removesuffix("]") if "[" in row["name"] else "-"
    live[layer].append((row["nonzero"], row["shape"][0] * row["shape"][1]))
  expected = {layer: sum(n for n, _ in counts) / sum(size for _, size in counts) for layer, counts in live.items()}
  assert result["layers"] == expected and list(result["layers"]) == list(live)
  assert list(result["kinds"]) == [
    *("mlp/wi_0", "mlp/wi_1", "mlp/wo"),
    *(f"self_attention/{name}" for name in ("key", "out", "query", "value")),
    "logits_dense",
  ]
  up = [row["density"] for row in result["matrices"] if "wi_1" in row["name"]]
  assert result["kinds"]["mlp/wi_1"] == pytest.approx(np.mean(up))


@pytest.mark.parametrize(
  ("dead", "expected"),
  [
    ("model.layers.1.mlp.experts.2.down_proj.weight", "model.layers.1.mlp.experts.2"),
    ("decoder/layers/MoeBlock_0/wi_0[1,2]", "decoder/layers/MoeBlock_0[1,2]"),
    ("decoder/layers_1/MoeBlock_0/wo[2]", "decoder/layers_1/MoeBlock_0[2]"),
    ("model.layers.1.mlp.down_proj.weight", None),
    ("decoder/layers/mlp/wo/kernel[1]", None),
  ],
)
def test_an_expert_that_always_gives_zero_is_a_warning(dead, expected):
  row = {"name": dead, "nonzero": 0, "nonfinite": 0, "density": 0.0, "dead_heads": 0}
  lines = warnings([row, row | {"name": "model.layers.0.mlp.experts.0.up_proj.weight", "nonzero": 5, "density": 0.5}])
  assert lines[0] == f"{dead}: every weight is zero"
  assert lines[1:] == ([f"{expected}: this expert always gives zero"] if expected else [])


def test_a_structure_is_told_where_every_matrix_has_it(tmp_path):
  weight = np.tile(np.array([1, 0, 0, 2], np.float32), (4, 2))
  save_file({"a.weight": weight, "b.weight": weight}, tmp_path / "model.safetensors")
  result, _ = survey(str(tmp_path), ["3:4"])
  assert {"3:4", "1:2", "2:4", "4:8"} == set(result["structures"])


def test_comparing_a_model_with_itself_and_with_another(tmp_path, checkpoint, exported):
  assert compare(str(checkpoint), str(checkpoint))["jaccard"] == 1.0
  with_broken = compare(str(checkpoint), str(broken_model(tmp_path)))
  rows = {row["name"]: row["jaccard"] for row in with_broken["matrices"]}
  assert rows["decoder/layers/mlp/wo/kernel[1]"] == 0 and rows["decoder/layers/mlp/wo/kernel[0]"] == 1
  assert 0 < with_broken["jaccard"] < 1
  with pytest.raises(ConfigError, match="no matrix of a name"):
    compare(str(checkpoint), str(exported))


def test_figures_are_written(tmp_path, exported):
  result, figures = survey(str(exported))
  for path in draw(result, figures, str(tmp_path / "figures")):
    with open(path, "rb") as file:
      assert file.read(4) == b"\x89PNG"


def test_the_command_prints_one_json_object(checkpoint):
  process = subprocess.run(
    [sys.executable, "-m", "maxtext_sparse", "inspect", checkpoint, "--json", "--compare", checkpoint],
    capture_output=True,
    text=True,
    check=False,
  )
  result = json.loads(process.stdout)
  assert {"prunable", "nonzero", "density", "matrices"} <= result.keys()
  assert {"name", "shape", "density", "dead_rows", "dead_columns"} <= result["matrices"][0].keys()
  assert result["compare"]["jaccard"] == 1.0


def test_a_path_that_is_neither_is_one_line(tmp_path):
  process = subprocess.run(
    [sys.executable, "-m", "maxtext_sparse", "inspect", tmp_path], capture_output=True, text=True, check=False
  )
  assert process.returncode == 2 and len(process.stderr.strip().splitlines()) == 1
