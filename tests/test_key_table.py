"""`maxtext-sparse keys`: the sparsity keys for people, for programs and for a config file."""

import json

from typer.testing import CliRunner

from maxtext_sparse.cli import app
from maxtext_sparse.config import DEFAULTS, SparsityKeys
from maxtext_sparse.config_files import read_config
from maxtext_sparse.key_table import describe_keys, to_yaml


def shown(*words):
  result = CliRunner().invoke(app, ["keys", *words], prog_name="maxtext-sparse", env={"COLUMNS": "80"})
  return result.exit_code, result.stdout, result.stderr


def test_the_yaml_block_is_a_config_with_every_default(tmp_path):
  path = tmp_path / "keys.yml"
  path.write_text(shown("--yaml")[1], encoding="utf-8")
  assert read_config(str(path)) == DEFAULTS
  assert max(map(len, to_yaml().splitlines())) <= 80


def test_a_comment_stands_above_each_key():
  lines = to_yaml().splitlines()
  for key in describe_keys():
    place = next(index for index, line in enumerate(lines) if line.startswith(f"{key.name}:"))
    assert lines[place - 1].startswith("# ")


def test_json_holds_defaults_values_and_the_meanings_of_the_fields():
  status, out, _ = shown("--json")
  rows = {row["key"]: row for row in json.loads(out)["keys"]}
  assert status == 0 and out.count("\n") == 1
  assert {name: row["default"] for name, row in rows.items()} == DEFAULTS
  assert {name: row["meaning"] for name, row in rows.items()} == {
    name: field.description or "" for name, field in SparsityKeys.model_fields.items()
  }
  assert rows["pruning_schedule"]["values"] == "geometric, cubic or linear"
  assert rows["sparsity"]["values"] == "number, at least 0, less than 1"
  assert rows["gmp_reschedule"]["values"] == "true or false"
  assert rows["pruning_seed"]["values"] == "whole number, at least 0, less than 4294967296"
  assert rows["prune_include"]["values"] == "list of texts"
  assert rows["prune_groups"]["values"] == "list of rules"


def test_the_table_fits_80_columns_and_names_every_key():
  _, out, _ = shown()
  assert max(map(len, out.splitlines())) <= 80
  assert all(key in out for key in DEFAULTS)


def test_two_forms_at_once_are_refused():
  status, out, error = shown("--json", "--yaml")
  assert (status, out, error.count("\n")) == (2, "", 1) and "keep one" in error
