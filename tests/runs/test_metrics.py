"""One reader of metrics for demo, sweeps and figures, with one rule for damaged lines."""

import json

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.metrics import (
  drop_rows_from,
  eval_rows,
  latest_rows,
  once_per_step,
  read_rows,
  read_uploaded_rows,
  text_of,
  train_rows,
)

TRAIN = [{"step": float(t), "learning/loss": 8.0, "filler": "x" * 900} for t in range(100)]
HELD_OUT = {"step": 98.0, "eval/avg_loss": 5.0}


@pytest.fixture
def torn(tmp_path):
  """A file as a killed run leaves it: longer than the tail that is read for progress, its last line cut."""
  path = tmp_path / "metrics.jsonl"
  path.write_text(text_of([*TRAIN[:99], HELD_OUT, TRAIN[99]]) + '{"step": 100.0, "learn')
  return str(path)


def test_a_torn_last_line_is_left_out(torn):
  rows = read_rows(torn)
  assert (train_rows(rows), eval_rows(rows)) == (TRAIN, [HELD_OUT])
  assert latest_rows(torn) == (TRAIN[99], HELD_OUT)


def test_a_file_that_is_not_there_has_no_latest_rows(tmp_path):
  assert latest_rows(str(tmp_path / "none.jsonl")) == ({}, {})


@pytest.mark.parametrize("damage", ["{not json}\n", "3\n", "[1]\n", '{"step": 1.0, "lear\n'])
def test_any_other_damaged_line_is_named(tmp_path, damage):
  path = tmp_path / "metrics.jsonl"
  path.write_text(json.dumps(TRAIN[0]) + "\n" + damage + json.dumps(TRAIN[1]) + "\n")
  with pytest.raises(ConfigError, match=r"metrics.jsonl: line 2 is not a row of MaxText's metrics"):
    read_rows(str(path))
  with pytest.raises(ConfigError, match="is not a row"):
    latest_rows(str(path))


def test_a_resume_keeps_the_rows_before_its_first_step(torn):
  drop_rows_from(torn, 98)
  assert read_rows(torn) == TRAIN[:98]


def test_dropping_rows_of_a_new_run_makes_its_folder(tmp_path):
  path = tmp_path / "new" / "metrics.jsonl"
  drop_rows_from(str(path), 0)
  assert path.read_text() == ""


def test_a_repeated_step_counts_once_with_its_last_row():
  rows = [{"step": 1, "a": 1}, {"step": 2, "a": 2}, {"step": 1, "a": 3}, {"step": 1, "eval/avg_loss": 4}, {"a": 5}]
  assert once_per_step(rows) == [{"step": 1, "a": 3}, {"step": 1, "eval/avg_loss": 4}, {"step": 2, "a": 2}]


def test_uploaded_files_are_read_in_the_order_of_their_steps(tmp_path):
  folder = tmp_path / "metrics"
  folder.mkdir()
  (folder / "metrics_step_000100_to_step_000199.txt").write_text(text_of([{"step": 100.0}]))
  (folder / "metrics_step_000000_to_step_000099.txt").write_text(text_of([{"step": 0.0}, {"step": 1.0}]))
  assert [row["step"] for row in read_uploaded_rows(str(tmp_path))] == [0.0, 1.0, 100.0]
  assert read_uploaded_rows(str(tmp_path / "none")) == []
