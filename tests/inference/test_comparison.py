"""The comparison of all variants, its arithmetic, and the command that prints it."""

import json
import math
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inference.break_even import break_even_density, of_model
from maxtext_sparse.inference.comparison import BenchPlan, is_pinned, median_interval, VARIANTS
from maxtext_sparse.inference.masking import mask_further
from maxtext_sparse.inference.matrix import PackedMatrix

REPO = Path(__file__).parents[2]
DENSITIES = [0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize(
  "ours, dense, expected",
  [
    ([1, 2, 3, 4], 2.5, 0.5),
    ([1, 2, 3, 4], 3.0, 0.6),
    ([1, 2, 3, 4], 0.5, None),
    ([1, 2, 3, 4], 9.0, 0.8),  # always as fast: as far as was measured
    ([1, 5, 3, 9], 2.0, 0.25),
    ([1, 5, 2, 9], 3.0, 0.3),  # the first crossing counts
    ([4, 1, 2, 4], 3.0, 0.7),  # a disturbed first time is not "never"
  ],
)
def test_break_even_is_interpolated_between_the_densities(ours, dense, expected):
  found = break_even_density(DENSITIES, ours, dense)
  assert found == expected or math.isclose(found, expected)


def test_the_model_breaks_even_where_it_writes_as_fast_as_its_fastest_rival():
  row = lambda density, fp32, int8, ours: {
    "density": density,
    "tokens_per_second": {
      "dense_fp32": fp32,
      "dense_bf16": 5.0,
      "dense_int8": int8,
      "sparse_bf16": ours,
      "sparse_int8": ours,
    },
  }
  # Relative times against floats 1.25, 1, 0.5; against int8 2, 1.6, 0.8.
  found = of_model([row(0.4, 10.0, 16.0, 8.0), row(0.2, 10.0, 16.0, 10.0), row(0.1, 10.0, 16.0, 20.0)])
  assert found["sparse_bf16"] == pytest.approx(0.2) and found["sparse_int8"] == pytest.approx(0.125)
  assert of_model([row(0.4, 10.0, 16.0, 8.0)]) == {"sparse_bf16": None, "sparse_int8": None}


def test_masking_keeps_the_largest_and_changes_no_other():
  weights = np.array([[0, 1.0, -0.5, 0.25], [0, 0, 0, 0], [0, 0, 3e-3, 1e-3]], np.float32)
  for dtype in ("fp32", "int8"):
    matrix = PackedMatrix.pack(weights, dtype)
    masked = mask_further(matrix, 3 / 12)
    np.testing.assert_array_equal(masked.expand(), np.where(np.abs(matrix.expand()) > 0.1, matrix.expand(), 0))
    assert mask_further(matrix, 1.0).values.tolist() == matrix.values.tolist()


def test_masking_meets_the_number_although_magnitudes_tie():
  matrix = PackedMatrix.pack(np.where(np.arange(64).reshape(8, 8) % 3, np.float32(1), np.float32(-1)), "int8")
  assert mask_further(matrix, 0.3).values.size == round(0.3 * 64)


def test_threads_are_pinned_if_each_has_one_core_and_all_cores_work():
  on = lambda cpu, *allowed: {"cpu": cpu, "allowed": list(allowed)}
  assert is_pinned([on(0, 0), on(1, 1)], [0, 1])
  assert not is_pinned([on(0, 0), on(0, 0)], [0, 1])
  assert not is_pinned([on(0, 0, 1), on(1, 1)], [0, 1])


def test_the_interval_holds_the_median_and_shrinks_with_more_rounds():
  few, many = [1.0, 2.0, 3.0], [1.0, 2.0, 3.0] * 30
  for values in (few, many):
    median, low, high = median_interval(values)
    assert median == 2.0 and 1.0 <= low <= median <= high <= 3.0
  assert median_interval(many)[2] - median_interval(many)[1] < median_interval(few)[2] - median_interval(few)[1]


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"cpus": (9999,)}, r"cpus=\[9999\]: must be among"),
    ({"num_rounds": 0}, "rounds=0"),
    ({"num_tokens": 1}, "tokens=1"),
  ],
)
def test_a_plan_that_cannot_be_measured_is_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    BenchPlan(**({"folder": "x", "cpus": (min(os.sched_getaffinity(0)),)} | changes))


def run(*arguments):
  command = [sys.executable, "-m", "maxtext_sparse", "bench", *map(str, arguments)]
  variables = os.environ | {"PYTHONPATH": str(REPO)}
  return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=800, check=False)


def test_without_torch_the_command_says_what_to_install():
  code = "import sys; sys.modules['torch'] = None; from maxtext_sparse.cli import main; main()"
  command = [sys.executable, "-c", code, "bench", "folder"]
  done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=False)
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert "pip install 'maxtext-sparse[inference]'" in done.stderr


@pytest.mark.torch
@pytest.mark.parametrize("options, message", [(["--cpus", "a"], "--cpus=a"), ([], "holds no .safetensors file")])
def test_bad_arguments_are_one_line(tmp_path, options, message):
  pytest.importorskip("torch", reason="needs the extra `inference`")
  done = run(tmp_path, *options)
  assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr


@pytest.fixture(scope="module")
def result(tmp_path_factory):
  pytest.importorskip("torch", reason="needs the extra `inference`")
  from tests.inference.models import write_model

  folder = write_model(tmp_path_factory.mktemp("bench") / "dense")
  done = run(folder, "--rounds", 2, "--tokens", 3, "--out", folder / "figures", "--json")
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.torch
@pytest.mark.slow
def test_the_json_has_every_variant(result):
  for key in ("tokens_per_second", "resident_bytes", "weight_bytes", "limit_tokens_per_second"):
    assert list(result[key]) == list(VARIANTS)
    assert all(value > 0 for value in result[key].values()), key
  assert 0.15 < result["density"] < 0.25
  assert result["break_even_density"] is None or 0 < result["break_even_density"] <= 1
  assert [row["density"] / result["density"] for row in result["masked"]] == [1.0, 0.75, 0.5, 0.25]
  assert list(result["model_break_even_densities"]) == ["sparse_bf16", "sparse_int8"]
  assert result["machine"]["cpus"] == sorted(os.sched_getaffinity(0))
  assert all(result["is_pinned"].values())


@pytest.mark.torch
@pytest.mark.slow
def test_the_same_tokens_come_out_and_a_figure(result):
  assert result["first_different_token"]["torch_csr"] is None
  assert result["logits_difference"]["torch_csr"] <= 1e-5 < result["logits_difference"]["dense_bf16"]
  assert [os.path.splitext(path)[1] for path in result["files"]] == [".png", ".svg"]
  assert all(os.path.getsize(path) > 1000 for path in result["files"])
