"""Sweep files: what they refuse, always in one line that names the key."""

import json
import time

import pytest
from typer.testing import CliRunner

from maxtext_sparse.cli import app
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.sweeps.filters import holds
from maxtext_sparse.sweeps.points import expand
from maxtext_sparse.sweeps.spec import read_spec

VALUES = {"a": 0.1, "b": 0.2, "size": "58m", "n": 3}


def refusal(*arguments):
  result = CliRunner().invoke(app, ["sweep", *arguments])
  assert result.exit_code == 2, result.output
  (line,) = result.stderr.splitlines()
  assert line.startswith("maxtext-sparse: error: ")
  return line


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"axis": {}}, "axis: a sweep file has no such key, did you mean axes?"),
    ({"learning_rate": 1e-3}, "MaxText's own go below set:"),
    ({"name": "Tiny Law"}, "name=Tiny Law: must be lower-case"),
    ({"axes": {"sparsity": []}}, "sparsity has no values"),
    ({"axes": {"sparsity": [0.5, 0.5]}}, "sparsity has a value twice"),
    ({"axes": {"sparsity": 0.5}}, "axes.sparsity=0.5: must be a list of values"),
    ({"axes": {"sparsty": [0.5]}}, "did you mean sparsity?"),
    ({"axes": {"learning_rat": [0.5]}}, ": MaxText has no such key, did you mean learning_rate?"),
    ({"axes": {"sparsity": [1.5]}}, "run tiny-s150: sparsity=1.5"),
    ({"axes": {"learning_rate": ["high"]}}, "run tiny-lrhigh: learning_rate=high"),
    ({"axes": {"size": {"s": "tny.yml"}}}, "cannot read this config file (No such file or directory), did you mean"),
    ({"axes": {"size": {"s": {"sparsity": 0.1}}, "sparsity": [0.5]}}, "sparsity is an axis of its own, keep one"),
    ({"axes": {"size": {"a": {}, "A": {}}}}, "two runs would have the name tiny-a"),
    ({"set": {"sparsity": 0.1}}, "sparsity: is below set and below axes, keep one"),
    ({"where": "sparsity > 2"}, "none of the 1 points meets sparsity > 2"),
    ({"where": "sparsty > 2"}, "unknown name sparsty, did you mean sparsity?"),
    ({"trunk": "perhaps"}, "trunk=perhaps: must be a valid boolean"),
    ({"devices": 0}, "devices=0: must be greater than 0"),
    ({"set": {"run_name": "../elsewhere"}}, "set: run_name: the sweep names its runs"),
    ({"axes": {"size": {"small": {"run_name": ".."}}}}, "axes: size: run_name: the sweep names its runs"),
    ({"axes": {"base_output_directory": ["/tmp"]}}, "base_output_directory: use output_directory:, outside of set:"),
    ({"set": {"metrics_file": "m.jsonl"}}, "set: metrics_file: each run writes its own metrics file"),
    ({"axes": {"loss": {"low": {}}}}, "axes: loss: the runs table has a column of this name"),
    ({"corpus": {"vocab": 3}}, "corpus.vocab: no such key, did you mean vocab_size?"),
    ({"set": {"tokens": "many"}}, "tokens=many: must be a positive number"),
    ({"set": {"tokens": 100}}, "tokens=100: less than one step of 512 tokens"),
    ({"set": {"batch_tokens": 100}}, "batch_tokens=100: must be whole sequences of 64 tokens"),
    ({"set": {"steps": "long"}}, "steps=long: must be a whole number"),
    ({"set": {"eval_interval": -1}}, "eval_interval=-1: the runs are compared by their final eval loss"),
    ({"set": {"gmp_pruning_frequency": 90}}, "gmp_pruning_frequency=90: longer than the pruning phase"),
    ({"set": {"enable_checkpointing": False}}, "enable_checkpointing=False: a run that stops could not go on"),
    (
      {"trunk": True, "set": {"dataset_type": "synthetic"}, "axes": {"sparsity": [0.2, 0.5]}},
      "trunk=true: dataset_type=synthetic keeps no data position",
    ),
  ],
)
def test_a_bad_sweep_file_is_refused_in_one_line(write_spec, tmp_path, fields, message):
  assert message in refusal("make", write_spec(**fields), "--out", str(tmp_path / "out"))
  assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_sweep_file_is_refused_in_one_line(tmp_path):
  path = tmp_path / "law.yml"
  assert "cannot read this sweep file" in refusal("make", str(path), "--out", str(tmp_path / "out"))
  path.write_text("[1, 2]")
  assert "did you mean" in refusal("make", str(tmp_path / "lw.yml"), "--out", str(tmp_path / "out"))
  assert "must be a YAML mapping" in refusal("make", str(path), "--out", str(tmp_path / "out"))
  path.write_text("name: [")
  assert "not YAML" in refusal("make", str(path), "--out", str(tmp_path / "out"))
  path.write_text("name: law")
  assert "base: is missing" in refusal("make", str(path), "--out", str(tmp_path / "out"))


def test_numbers_are_read_as_maxtext_reads_them(tmp_path):
  """YAML 1.1 takes 1e-3 for text, which no condition could compare and no optimizer could use."""
  path = tmp_path / "spec.yml"
  path.write_text(
    "name: tiny\nbase: tiny.yml\nset: {adam_eps: 1e-9}\n"
    "axes: {learning_rate: [1e-3, 1e-1], sparsity: [0.5]}\nwhere: learning_rate <= 1e-2\n"
  )
  (tmp_path / "tiny.yml").write_text("steps: 100\nadam_b1: 9e-1\n")
  (point,) = expand(read_spec(str(path)), str(tmp_path))
  assert (point.keys["learning_rate"], point.keys["adam_eps"], point.keys["adam_b1"]) == (1e-3, 1e-9, 0.9)


def test_a_product_that_is_too_large_is_refused_before_anything_is_read(write_spec, tmp_path):
  axes = {"sparsity": [i / 1000 for i in range(900)], "learning_rate": [i / 1000 for i in range(1, 101)]}
  start = time.monotonic()
  line = refusal("make", write_spec(axes=axes), "--out", str(tmp_path / "out"))
  assert "axes: 90,000 points (100 learning_rate x 900 sparsity), must be at most 5,000; split the sweep" in line
  assert time.monotonic() - start < 5


@pytest.mark.parametrize("command", ["run", "status", "collect"])
def test_a_folder_that_is_no_sweep_is_refused_in_one_line(tmp_path, command):
  assert "not a sweep's folder" in refusal(command, str(tmp_path))
  (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
  assert "format 99" in refusal(command, str(tmp_path))
  (tmp_path / "manifest.json").write_text("{")
  assert "not a sweep's manifest" in refusal(command, str(tmp_path))


@pytest.mark.parametrize(
  ("condition", "result"),
  [
    ("a + b <= 0.3", True),
    ("a + b < 0.3", False),
    ("a + b == 0.3", True),
    ("0 < a < b", True),
    ("not a > b and n * 2 == 6", True),
    ("size in ['58m', '1b'] or a > 1", True),
    ("size not in ('58m', '1b')", False),
    ("-n + 4 / 2 == -1", True),
  ],
)
def test_conditions(condition, result):
  assert holds(condition, VALUES) is result


@pytest.mark.parametrize(
  ("condition", "message"),
  [
    ("a +", "not a condition"),
    ("a + b", "must be true or false"),
    ("a < size", "not a condition"),
    ("a / 0 == 1", "division by zero"),
    ("__import__('os').system('true') == 0", "is not allowed"),
    ("(lambda: True)()", "is not allowed"),
    ("size.upper() == '58M'", "is not allowed"),
    ("9 ** 9 ** 9 > 1", "is not allowed"),
    ("siz == '58m'", "unknown name siz, did you mean size?"),
  ],
)
def test_conditions_are_no_programs(condition, message):
  with pytest.raises(ConfigError, match="where: ") as error:
    holds(condition, VALUES)
  assert message in str(error.value)
