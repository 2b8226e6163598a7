"""`sweep collect`: the runs table that `fit` and `plot` read, from what each run left behind."""

from collections.abc import Mapping, Sequence
import csv
import io
from typing import Any

from maxtext_sparse.config import DEFAULTS, parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.schedule import build_schedule
from maxtext_sparse.sweeps.manifest import Manifest, read_manifest, Run
from maxtext_sparse.sweeps.state import is_finished, latest

_COLUMNS = ("run", "sparsity", "dense_params", "average_params", "final_params", "tokens", "loss")
# What the schedule and learning-rate figures need.
_EXTRA = ("gmp_dense_fraction", "gmp_prune_fraction", "learning_rate", "batch_tokens")


def collect(directory: str, is_unfinished_allowed: bool = False) -> list[dict[str, Any]]:
  """One row per finished run, trunks left out.

  A run's counts are those of its exact event table; its loss is MaxText's own eval after the last step.

  Args:
    directory: the sweep's folder; its runs may be in a bucket.
    is_unfinished_allowed: leave out the runs that are not finished.

  Raises:
    ConfigError: a run is not finished, or none is.
  """
  manifest = read_manifest(directory)
  runs = [run for run in manifest.runs if run.kind == "run"]
  finished = [run for run in runs if is_finished(manifest, run)]
  missing = [run.name for run in runs if run not in finished]
  if missing and not is_unfinished_allowed:
    raise ConfigError(
      f"{directory}: {len(missing)} of {len(runs)} runs are not finished, such as {missing[0]}; finish them with "
      "sweep run, or leave them out with --allow-unfinished"
    )
  if not finished:
    raise ConfigError(f"{directory}: none of the {len(runs)} runs is finished")
  return [_row(manifest, run) for run in finished]


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows as CSV, every column that any of them has."""
  columns = list(dict.fromkeys(column for row in rows for column in row))
  buffer = io.StringIO()
  writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
  writer.writeheader()
  writer.writerows(rows)
  return buffer.getvalue()


def write_table(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes RUNS.csv.

  Raises:
    ConfigError: it cannot be written there.
  """
  try:
    with open(path, "w", encoding="utf-8", newline="") as file:
      file.write(table_text(rows))
  except OSError as error:
    raise ConfigError(f"--out={path}: cannot write there ({error.strerror})") from error


def _row(manifest: Manifest, run: Run) -> dict[str, Any]:
  config = manifest.load_config(run)
  _, evaluated = latest(manifest, run)
  values = (
    run.name,
    config.get("sparsity", 0.0),
    run.num_prunable,
    *_counts(run, config),
    run.steps * run.batch_tokens,
    evaluated["eval/avg_loss"],
  )
  settings = DEFAULTS | config | {"batch_tokens": run.batch_tokens}
  row = dict(zip(_COLUMNS, values)) | {name: settings[name] for name in _EXTRA if name in settings}
  # An axis may be called like a column, which then says the same or more.
  return row | {name: value for name, value in run.axes.items() if name not in row}


def _counts(run: Run, config: Mapping[str, Any]) -> tuple[float, int]:
  """Average and final prunable weights, dense steps of a trunk included: the schedule's exact counts."""
  keys = parse_keys(config)
  if not keys.is_active:
    return run.num_prunable, run.num_prunable
  schedule = build_schedule(keys, run.steps)
  average = schedule.active_sum(run.steps, run.num_prunable) / run.steps
  return average, schedule.keep_counts(run.num_prunable)[-1] if schedule.event_steps else run.num_prunable
