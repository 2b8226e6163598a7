"""Uploaded metrics (`gcs_metrics`): every row once, whatever cuts a run short. Buckets: `tests/faults/test_sinks.py`."""

import os
import shutil

import pytest

from maxtext_sparse.errors import RunError
from maxtext_sparse.runs.metrics import once_per_step, read_uploaded_rows, upload_rows
from tests.hooks.harness import SPARSE

# Periods of 8 steps in a run of 20: 0 to 7, 8 to 15, 16 to 19.
UPLOADED = {"gcs_metrics": True, "log_period": 8, "eval_interval": 6, "eval_steps": 2}


def uploads(run):
  return sorted(path.name for path in (run.folder / "metrics").iterdir())


@pytest.mark.release
def test_uploaded_rows_are_those_of_the_metrics_file(worker, out):
  """The eval of the last step has the name of the last period too, and must not replace its train rows."""
  before = os.listdir()
  run = worker.train(out, "uploaded", **UPLOADED, **SPARSE)
  assert uploads(run) == [
    "metrics_step_000000_to_step_000007.txt",
    "metrics_step_000008_to_step_000015.txt",
    "metrics_step_000016_to_step_000019.txt",
  ]
  assert read_uploaded_rows(str(run.folder)) == run.rows
  assert os.listdir() == before, "a file was left in the working directory"


def test_a_run_that_resumes_within_a_period_replaces_no_row(worker, out):
  settings = UPLOADED | SPARSE | {"enable_checkpointing": True, "checkpoint_period": 10, "async_checkpointing": False}
  whole = worker.train(out, "resumed", **settings)
  # A file ends with each checkpoint, and with the last row that is written before it, so that a kill loses no others.
  names = uploads(whole)
  assert {name[-10:-4] for name in names} == {"000000", "000007", "000008", "000010", "000015", "000018", "000019"}
  shutil.rmtree(whole.folder / "checkpoints" / "19")
  run = worker.train(out, "resumed", **settings)
  # From step 11 on.
  assert uploads(run) == names
  kept = lambda row: {name: value for name, value in row.items() if not name.startswith("perf/")}
  assert [kept(row) for row in once_per_step(read_uploaded_rows(str(run.folder)))] == [kept(row) for row in whole.rows]


def test_rows_that_cannot_be_written_are_one_line(tmp_path):
  (tmp_path / "metrics").write_text("in the way")
  with pytest.raises(RunError, match=r"metrics_step_000000_to_step_000009\.txt: cannot write these metrics") as error:
    upload_rows(str(tmp_path / "metrics"), 0, 9, [])
  assert "\n" not in str(error.value)
