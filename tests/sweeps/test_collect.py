"""`sweep status` and `sweep collect`: what they read off run folders, and what they refuse."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from maxtext_sparse.cli import app
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.runs_table import read_runs
from maxtext_sparse.runs.files import folder_lock, is_locked
from maxtext_sparse.runs.record import Plan, RunRecord
from maxtext_sparse.schedule import Schedule
from maxtext_sparse.sweeps.collect import collect, table_text, write_table
from maxtext_sparse.sweeps.make import make
from maxtext_sparse.sweeps.run import choose
from maxtext_sparse.sweeps.state import is_finished, write_notes
from tests.sweeps.conftest import TINY


@pytest.fixture
def manifest(write_spec, tmp_path):
  """A trunk, a dense, a half and a four fifths sparse run, of which nothing is trained."""
  spec = write_spec(trunk=True, axes={"size": {"small": {}}, "sparsity": [0.0, 0.5, 0.8]}, set={"learning_rate": 0.01})
  return make(spec, str(tmp_path / "sweep"))


def leave(manifest, run, step, loss, is_evaluated=True, **pruning):
  """What a run leaves behind that has trained to `step` and saved there; `pruning` are metrics of its last row."""
  folder = Path(manifest.run_directory(run))
  (folder / "checkpoints" / str(step)).mkdir(parents=True)
  scalars = {f"pruning/{name}": value for name, value in ({"density": 0.25} | pruning).items()}
  rows: list[dict] = [{"step": float(step), "learning/loss": loss + 1} | scalars]
  if is_evaluated:
    rows.append({"step": float(step), "eval/avg_loss": loss})
  (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def finish_all(manifest):
  for number, run in enumerate(manifest.runs):
    leave(manifest, run, run.steps - 1, 3.0 + number / 8)


def status(manifest):
  result = CliRunner().invoke(app, ["sweep", "status", manifest.directory, "--json"])
  return {entry["run"]: entry for entry in json.loads(result.stdout)["runs"]}


def test_status_tells_waiting_stopped_failed_and_done_apart(manifest):
  dense, trunk, half, high = manifest.runs
  leave(manifest, trunk, trunk.steps - 1, 3.0, is_evaluated=False)
  leave(manifest, dense, 99, 2.5)
  leave(manifest, half, 49, 2.75)
  write_notes(
    manifest.directory, {high.name: {"state": "failed", "reason": "out of data"}, half.name: {"state": "running"}}
  )
  now = status(manifest)
  assert {name: entry["state"] for name, entry in now.items()} == {
    "tiny-small-s0": "done",
    "tiny-trunk-small": "done",
    "tiny-small-s50": "stopped",
    "tiny-small-s80": "failed",
  }
  assert (now[dense.name]["loss"], now[half.name]["loss"], now[half.name]["density"]) == (2.5, 3.75, 0.25)
  assert now[half.name]["num_done"] == 50 and now[high.name]["reason"] == "out of data"
  with folder_lock(manifest.directory, "busy"):
    assert is_locked(manifest.directory)
    assert status(manifest)[half.name]["state"] == "running"
  assert not is_locked(manifest.directory)


def test_status_prints_a_line_for_each_run(manifest):
  leave(manifest, manifest.runs[0], 99, 2.5)
  output = CliRunner().invoke(app, ["sweep", "status", manifest.directory]).stdout
  assert ("tiny-small-s0      done      100/100   2.500" in output and output.endswith("3 waiting, 1 done\n")) or (
    "1 done" in output and "3 waiting" in output
  )


def test_a_run_without_its_final_eval_is_not_finished(manifest):
  run = manifest.runs[0]
  leave(manifest, run, 99, 2.5, is_evaluated=False)
  assert not is_finished(manifest, run)


def test_collect_writes_the_table_that_fit_reads(manifest, tmp_path):
  finish_all(manifest)
  path = tmp_path / "runs.csv"
  result = CliRunner().invoke(app, ["sweep", "collect", manifest.directory, "--out", str(path), "--json"])
  assert result.exit_code == 0, result.stderr
  table = read_runs(str(path)).set_index("run")
  assert list(table.index) == ["tiny-small-s0", "tiny-small-s50", "tiny-small-s80"]
  num_weights, tokens = manifest.runs[0].num_prunable, 100 * TINY["per_device_batch_size"] * TINY["max_target_length"]
  assert set(table["dense_params"]) == {num_weights} and set(table["tokens"]) == {tokens}
  assert list(table["final_params"]) == [num_weights, num_weights / 2, num_weights - round(0.8 * num_weights)]
  assert table["average_params"].is_monotonic_decreasing and table["average_params"].iloc[0] == num_weights
  assert list(table["loss"]) == [3.0, 3.25, 3.375]
  extra = ["gmp_dense_fraction", "gmp_prune_fraction", "learning_rate", "batch_tokens", "size"]
  assert table[extra].iloc[2].tolist() == [0.25, 0.5, 0.01, 512, "small"]
  assert json.loads(result.stdout)["runs"][1]["run"] == "tiny-small-s50"


def test_average_counts_are_those_of_the_event_table(manifest):
  """The density in force in each forward pass, summed by hand."""
  finish_all(manifest)
  row = next(row for row in collect(manifest.directory) if row["sparsity"] == 0.8)
  config = manifest.load_config(manifest.find(row["run"]))
  from maxtext_sparse.config import parse_keys
  from maxtext_sparse.schedule import build_schedule

  schedule = build_schedule(parse_keys(config), 100)
  kept = dict(zip(schedule.event_steps, schedule.keep_counts(row["dense_params"])))
  active, total = row["dense_params"], 0
  for step in range(100):
    total += active
    active = kept.get(step, active)
  assert row["average_params"] == total / 100 and row["final_params"] == active


def row_of(manifest, run):
  return next(row for row in collect(manifest.directory, True) if row["run"] == run.name)


def record(manifest, run, plan, *events):
  """The run's record: its plan, and step, sum of active weights up to it and weights left of each event."""
  written = RunRecord(manifest.run_directory(run))
  written.write_plan(plan)
  for step, active_sum, left in events:
    event = {"nonzero_prunable": left, "density": left / plan.num_prunable, "threshold": 0.1, "matrices": {}}
    written.write_event(step, event | ({} if active_sum is None else {"active_sum": active_sum}))


def test_counts_are_those_that_the_run_recorded_at_its_events(manifest):
  """Weights that were zero from the start make an event leave fewer than the schedule asks for."""
  run = manifest.runs[-1]
  leave(manifest, run, 99, 2.5)
  plan = Plan(Schedule(100, (9, 59), (0.5, 0.2)), (), 1000)
  record(manifest, run, plan, (9, 10 * 1000, 493), (59, 10 * 1000 + 50 * 493, 199))
  row = row_of(manifest, run)
  assert row["average_params"] == (10 * 1000 + 50 * 493 + 40 * 199) / 100
  assert row["final_params"] == 199


RESCHEDULED = Plan(Schedule(100, (9, 19, 49, 79), (0.8, 0.6, 0.4, 0.2)), (), 1000, begin_step=30, begin_active=900)


def test_a_rescheduled_run_counts_from_where_its_schedule_came_into_force(manifest):
  """The checkpoint of step 29 had 900 weights; the events at 9 and 19 did not happen."""
  run = manifest.runs[-1]
  leave(manifest, run, 99, 2.5)
  record(manifest, run, RESCHEDULED)
  row = row_of(manifest, run)
  assert row["average_params"] == (50 * 900 + 30 * 400 + 20 * 200) / 100
  assert row["final_params"] == 200
  # Records of older versions have no sum.
  record(manifest, run, RESCHEDULED, (49, None, 400), (79, None, 200))
  assert row_of(manifest, run) == row


def test_a_run_that_changed_its_schedule_keeps_the_counts_of_its_earlier_events(manifest):
  """An event of the first schedule at 14 left 900 weights; the second schedule holds these from step 30 on."""
  run = manifest.runs[-1]
  leave(manifest, run, 99, 2.5)
  plan = Plan(Schedule(100, (), (), "hold"), (), 1000, begin_step=30, begin_active=899)
  record(manifest, run, plan, (14, 15 * 1000, 900))
  row = row_of(manifest, run)
  assert (row["average_params"], row["final_params"]) == ((15 * 1000 + 15 * 900 + 70 * 899) / 100, 899)


@pytest.mark.parametrize("is_in_plan", [False, True])
def test_a_hold_run_has_the_weights_of_its_checkpoint(write_spec, tmp_path, is_in_plan):
  spec = write_spec(axes={"pruning_method": ["hold"]}, set={"learning_rate": 0.01})
  manifest = make(spec, str(tmp_path / "sweep"))
  (run,) = manifest.runs
  kept = run.num_prunable // 4
  leave(manifest, run, 99, 2.5, **({} if is_in_plan else {"nonzero_prunable": float(kept)}))
  begin_active = kept if is_in_plan else None
  record(manifest, run, Plan(Schedule(100, (), (), "hold"), (), run.num_prunable, 0, begin_active))
  write_table(str(tmp_path / "runs.csv"), collect(manifest.directory))
  row = read_runs(str(tmp_path / "runs.csv")).iloc[0]
  assert (row["sparsity"], row["average_params"], row["final_params"]) == (0.75, kept, kept)


def test_a_hold_run_without_a_count_is_refused(write_spec, tmp_path):
  manifest = make(write_spec(axes={"pruning_method": ["hold"]}), str(tmp_path / "sweep"))
  leave(manifest, manifest.runs[0], 99, 2.5)
  with pytest.raises(ConfigError, match="tiny-pruning-method-hold: its metrics have no pruning/nonzero_prunable"):
    collect(manifest.directory)


def test_a_damaged_event_record_is_named(manifest):
  run = manifest.runs[-1]
  leave(manifest, run, 99, 2.5)
  record(manifest, run, Plan(Schedule(100, (9,), (0.2,)), (), 1000))
  (Path(manifest.run_directory(run)) / "sparsity" / "event_00000009.json").write_text('{"step": 9}')
  with pytest.raises(ConfigError, match=r"event_00000009.json: not an event record"):
    collect(manifest.directory, True)


def test_an_axis_cannot_hide_a_column(manifest):
  path = Path(manifest.directory) / "manifest.json"
  path.write_text(path.read_text().replace('"size": "small"', '"loss": "small"'))
  finish_all(manifest)
  with pytest.raises(ConfigError, match="axes: loss: the runs table has a column of this name"):
    collect(manifest.directory)


def test_half_finished_runs_are_refused_unless_told(manifest):
  finish_all(manifest)
  last = manifest.runs[-1]
  (Path(manifest.run_directory(last)) / "checkpoints" / "99").rmdir()
  with pytest.raises(ConfigError, match="1 of 3 runs are not finished, such as tiny-small-s80; finish them"):
    collect(manifest.directory)
  assert [row["run"] for row in collect(manifest.directory, True)] == ["tiny-small-s0", "tiny-small-s50"]


def test_a_sweep_without_a_finished_run_has_no_table(manifest):
  with pytest.raises(ConfigError, match="none of the 3 runs is finished"):
    collect(manifest.directory, True)


def test_rows_with_different_columns_share_one_header():
  text = table_text([{"run": "a", "loss": 1.5}, {"run": "b", "loss": 2.0, "size": "big"}])
  assert pd.read_csv(io.StringIO(text)).columns.tolist() == ["run", "loss", "size"]


def test_a_glob_brings_the_trunks_along(manifest):
  assert [run.name for run in choose(manifest, "*-s80")] == ["tiny-trunk-small", "tiny-small-s80"]
  with pytest.raises(ConfigError, match=r"--only=\*-s90: matches none of the 4 runs, such as tiny-small-s80"):
    choose(manifest, "*-s90")


def test_a_second_sweep_run_is_refused(manifest):
  with folder_lock(manifest.directory, "busy"):
    result = CliRunner().invoke(app, ["sweep", "run", manifest.directory])
  assert result.exit_code == 2 and "another sweep run is at work there" in result.stderr


def test_runs_in_a_bucket_upload_their_metrics(write_spec, tmp_path):
  made = make(write_spec(output_directory="gs://bucket/sweep"), str(tmp_path / "sweep"))
  config = made.load_config(made.runs[0])
  assert config["gcs_metrics"] is True and "metrics_file" not in config
