"""What MaxText is given in place of the arguments: one config file that it reads as it is meant."""

import pytest

from maxtext_sparse.config_files import read_config, stock_file
from maxtext_sparse.entry import merged_configs, run_module
from maxtext_sparse.errors import ConfigError


@pytest.fixture
def write(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)

  def write(name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return name

  return write


def test_one_whole_file_is_passed_on_as_it_is(write):
  name = write("run.yml", "base_config: base.yml\nsteps: 300\n")
  with merged_configs(["sparsity=0.5", name]) as given:
    assert given == [name, "sparsity=0.5"]


@pytest.mark.parametrize("name, text", [("run.yml", "steps: 300\n"), ("run.yaml", "base_config: base.yml\nsteps: 300\n")])
def test_one_file_that_maxtext_would_misread_is_written_anew_as_two_are(write, name, text):
  """MaxText takes run.yml for the whole config, without base.yml below it, and does not see run.yaml at all."""
  with merged_configs([write(name, text), "sparsity=0.5"]) as (path, *others):
    assert path.endswith(".yml") and others == ["sparsity=0.5"]
    assert read_config(path) == {"base_config": "base.yml", "steps": 300}


def test_maxtexts_own_file_is_found_by_its_name(write):
  for name in ("base.yml", "src/maxtext/configs/base.yml"):
    with merged_configs([name]) as given:
      assert given == [stock_file("base.yml")]


def test_options_of_other_entry_points_keep_their_place_and_their_values(write):
  name = write("run.yml", "base_config: base.yml\n")
  with merged_configs([name, "--format", "hf", "steps=3", "-v"]) as given:
    assert given == [name, "--format", "hf", "steps=3", "-v"]


def test_a_bad_argument_is_refused_before_anything_is_written(write):
  with pytest.raises(ConfigError, match="steps=4: steps=3 is given too"), merged_configs(["steps=3", "steps=4"]):
    pytest.fail("the block must not run")


def test_a_trainer_without_its_packages_is_one_line(write, monkeypatch, capsys):
  """As MaxText's trainers that are based on tunix, in an environment for pre-training."""
  write("trainer.py", "import tunix_that_is_not_there.rl\ndef main(argv): pass\n")
  monkeypatch.syspath_prepend(".")
  with pytest.raises(SystemExit):
    run_module("trainer", ["sparsity=0.5"], install=lambda: None)
  told = capsys.readouterr().err.splitlines()
  assert told[-1].endswith("MODULE=trainer: needs the package tunix_that_is_not_there, which is not installed")


@pytest.mark.parametrize(
  ("module", "message"),
  [
    ("maxtext.trainers.pre_train.trian", "there is no trian in pre_train, did you mean train"),
    ("maxtext.trainers.pre_train", "is a folder of modules"),
    ("no_such_package.train", "no such module"),
    ("json.decoder", "has no function main"),
    ("../train.py", "no such module"),
    ("", "no such module"),
  ],
)
def test_a_wrong_entry_point_is_refused_before_maxtext_is_imported(capsys, module, message):
  def install():
    pytest.fail("MaxText would be imported")

  with pytest.raises(SystemExit) as ending:
    run_module(module, [], install=install)
  line = capsys.readouterr().err
  assert ending.value.code == 2 and line.count("\n") == 1
  assert line.startswith(f"maxtext-sparse: error: MODULE={module}: {message}")
