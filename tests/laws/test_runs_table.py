"""RUNS.csv: what is accepted, and one clear line with the row for everything that is not."""

import numpy as np
import pandas as pd
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.public_data import convert
from maxtext_sparse.laws.runs_table import check_runs, COLUMNS, read_runs


def changed(runs, row, **values):
  runs = runs.astype(object)
  for column, value in values.items():
    runs.loc[row, column] = value
  return runs


def test_reads_what_it_writes_and_keeps_extra_columns(runs, tmp_path):
  path = tmp_path / "RUNS.csv"
  runs.assign(seed=7, note="x").to_csv(path, index=False)
  read = read_runs(str(path))
  assert list(read.columns) == [*COLUMNS, "seed", "note"]
  np.testing.assert_allclose(read[list(COLUMNS[1:])], runs[list(COLUMNS[1:])], rtol=1e-12)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"loss": float("nan")}, r"row 4 \(run r3\): loss=\(empty\): must be a positive number"),
    ({"loss": -1.0}, r"row 4 .*loss=-1.0: must be a positive number"),
    ({"loss": 0}, r"row 4 .*loss=0: must be"),
    ({"loss": "n/a?"}, r"row 4 .*loss=n/a\?: must be"),
    ({"tokens": float("inf")}, r"row 4 .*tokens=inf: must be"),
    ({"dense_params": 0}, r"row 4 .*dense_params=0: must be"),
    ({"sparsity": -0.2}, r"row 4 .*sparsity=-0.2: must be a number in \[0, 1\)"),
    ({"sparsity": 20.0}, r"row 4 .*sparsity=20: .*in percent\? write 0.2"),
    ({"tokens": 14.7}, r"row 4 .*tokens=14.7: .*are the units mixed"),
    ({"dense_params": 42.0, "average_params": 41.0, "final_params": 40.0}, r"row 4 .*dense_params=42: .*units mixed"),
    ({"average_params": 43e6}, r"row 4 .*average_params=4.3e\+07 is above dense_params"),
    ({"final_params": 42e6}, r"row 4 .*final_params=4.2e\+07 is above average_params"),
    ({"final_params": 20e6}, r"row 4 .*dense_params x \(1 - sparsity\)=3.36e\+07 is above final_params=2e\+07"),
  ],
)
def test_a_bad_row_is_named(runs, values, message):
  with pytest.raises(ConfigError, match=message) as caught:
    check_runs(changed(runs, 3, **values), "RUNS.csv")
  assert "\n" not in str(caught.value)


def test_a_missing_column_is_named(runs):
  with pytest.raises(ConfigError, match="column average_params, tokens is missing, the file has 'run, sparsity, dense"):
    check_runs(runs.drop(columns=["average_params", "tokens"]))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_another_separator_is_pointed_out(runs, tmp_path, separator):
  path = tmp_path / "RUNS.csv"
  runs.to_csv(path, index=False, sep=separator)
  with pytest.raises(ConfigError, match=r"is missing, the file has 'run.*; write commas between columns"):
    read_runs(str(path))


@pytest.mark.parametrize(("columns", "unit"), [(COLUMNS[2:5], 1e6), (("tokens",), 1e9)], ids=["params", "tokens"])
def test_a_whole_table_in_millions_is_refused(runs, columns, unit):
  with pytest.raises(ConfigError, match=f"row 1 .*{columns[0]}=.*: must be at least 1000, in millions or billions"):
    check_runs(runs.assign(**{column: runs[column] / unit for column in columns}))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_byte_order_marks_and_line_ends_of_other_systems_are_read(runs, tmp_path, encoding):
  path = tmp_path / "RUNS.csv"
  path.write_text(runs.to_csv(index=False).replace("\n", "\r\n"), encoding=encoding, newline="")
  assert len(read_runs(str(path))) == len(runs)


def test_a_file_with_nul_bytes_is_refused(runs, tmp_path):
  path = tmp_path / "RUNS.csv"
  path.write_text(runs.to_csv(index=False).replace("4", "\0", 1))
  with pytest.raises(ConfigError, match="NUL bytes, not a text file"):
    read_runs(str(path))


@pytest.mark.parametrize(("content", "message"), [("", "not a readable CSV"), (",".join(COLUMNS), "has no rows")])
def test_an_empty_file_is_refused(tmp_path, content, message):
  path = tmp_path / "RUNS.csv"
  path.write_text(content)
  with pytest.raises(ConfigError, match=message):
    read_runs(str(path))


def test_a_missing_file_is_refused(tmp_path):
  with pytest.raises(ConfigError, match="No such file"):
    read_runs(str(tmp_path / "none.csv"))


def test_t5_counts(t5):
  """48 runs; N_avg = N (1 - 0.625 S), 65,536 tokens a step."""
  assert len(t5) == 48
  np.testing.assert_allclose(t5["average_params"], t5["dense_params"] * (1 - 0.625 * t5["sparsity"]), rtol=1e-12)
  np.testing.assert_allclose(t5["final_params"].max(), 84.935e6, rtol=1e-6)
  np.testing.assert_allclose(sorted(t5["tokens"].unique()), [65536 * s for s in (2.5e5, 5e5, 1e6)])


def test_vit_counts(vit):
  assert len(vit) == 112
  np.testing.assert_allclose(vit["dense_params"].max(), 2 * 84.93e6)
  assert set(vit["sparsity"]) == {0.0, 0.5, 0.75, 0.875, 0.9375}


@pytest.mark.parametrize(
  ("source", "content", "message"),
  [
    ("gpt", "", "--source=gpt: must be t5, vit, wandb"),
    ("t5", "a,b\n1,2\n", "column sparsity, scale, val-loss, steps is missing"),
    ("vit", "not json", "not the published vit file"),
    ("t5", "sparsity,scale,val-loss,steps\n0.5,1,2.0,1000\n0.5,1,,1000\n", r"row 2 .*loss=\(empty\)"),
  ],
)
def test_a_wrong_published_file_is_refused(tmp_path, source, content, message):
  path = tmp_path / "data"
  path.write_text(content)
  with pytest.raises(ConfigError, match=message):
    convert(str(path), source)


def test_another_column_can_be_the_loss(runs, tmp_path):
  path = tmp_path / "RUNS.csv"
  runs.assign(wikitext_loss=runs["loss"] + 1).to_csv(path, index=False)
  np.testing.assert_allclose(read_runs(str(path), "wikitext_loss")["loss"], runs["loss"] + 1)
  with pytest.raises(ConfigError, match=r"--loss-column=wikitext: .* has no such column, did you mean wikitext_loss\?"):
    read_runs(str(path), "wikitext")


@pytest.mark.parametrize("column", ["weight", "bits"])
def test_optional_columns_are_checked(runs, column):
  with pytest.raises(ConfigError, match=f"row 4 .*{column}=0: must be a positive number"):
    check_runs(changed(runs.assign(**{column: 1.0}), 3, **{column: 0}))


def test_row_numbers_do_not_depend_on_the_index(runs):
  table = pd.concat([runs, changed(runs.head(1), 0, loss=-2.0)])
  with pytest.raises(ConfigError, match="row 31 "):
    check_runs(table)
