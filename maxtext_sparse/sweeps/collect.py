"""`sweep collect`: makes the runs table that `fit` and `plot` read from what each run left in its folder."""

from collections.abc import Mapping, Sequence
import csv
import io
from typing import Any

from maxtext_sparse.config import DEFAULTS, parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.columns import COLUMNS, RESULTS, SETTINGS
from maxtext_sparse.runs.files import replace_text
from maxtext_sparse.runs.metrics import Row
from maxtext_sparse.schedule import build_schedule
from maxtext_sparse.sweeps.counts import ActiveCounts, count_active
from maxtext_sparse.sweeps.manifest import Manifest, read_manifest, Run
from maxtext_sparse.sweeps.state import as_of_now, for_each, has_last_checkpoint, is_final, latest


def collect(directory: str, is_unfinished_allowed: bool = False) -> list[dict[str, Any]]:
  """One row for each finished run, without the trunks.

  The counts of prunable weights are those that the run counted at its events. The loss is MaxText's evaluation after the
  last step.

  Args:
    directory: the sweep's folder; its runs may be in a bucket.
    is_unfinished_allowed: whether to leave out runs that are not finished instead of refusing.

  Raises:
    ConfigError: a run is not finished, or no run is.
  """
  manifest = as_of_now(read_manifest(directory))
  runs = [run for run in manifest.runs if run.kind == "run"]
  evaluated = for_each(manifest, lambda run: _final_eval(manifest, run), runs)
  finished = [(run, row) for run, row in zip(runs, evaluated, strict=True) if row]
  missing = [run.name for run, row in zip(runs, evaluated, strict=True) if not row]
  if missing and not is_unfinished_allowed:
    raise ConfigError(
      f"{directory}: {len(missing)} of {len(runs)} runs are not finished, such as {missing[0]}; finish them with "
      "sweep run, or leave them out with --allow-unfinished"
    )
  if not finished:
    raise ConfigError(f"{directory}: none of the {len(runs)} runs is finished")
  return for_each(manifest, lambda pair: _row(manifest, *pair), finished)


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows as CSV text. It has every column that some row has, in the order of their first rows."""
  columns = list(dict.fromkeys(column for row in rows for column in row))
  buffer = io.StringIO()
  writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
  writer.writeheader()
  writer.writerows(rows)
  return buffer.getvalue()


def write_table(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes RUNS.csv.

  Raises:
    ConfigError: the file cannot be written.
  """
  try:
    replace_text(path, table_text(rows))
  except OSError as error:
    raise ConfigError(f"--out={path}: cannot write there ({error.strerror})") from error


def _final_eval(manifest: Manifest, run: Run) -> Row:
  """The evaluation after the last step of a finished run, an empty row of another run."""
  if not has_last_checkpoint(manifest, run):
    return {}
  _, evaluated = latest(manifest, run)
  return evaluated if is_final(run, evaluated) else {}


def _row(manifest: Manifest, run: Run, evaluated: Row) -> dict[str, Any]:
  config = manifest.load_config(run)
  sparsity, counts = _sparsity_and_counts(manifest, run, config)
  tokens, loss = run.steps * run.batch_tokens, evaluated["eval/avg_loss"]
  values = (run.name, sparsity, run.num_prunable, counts.average, counts.final, tokens, loss)
  settings = DEFAULTS | config | {"batch_tokens": run.batch_tokens}
  row = dict(zip(COLUMNS, values, strict=True)) | {name: settings[name] for name in SETTINGS if name in settings}
  if repeated := sorted(run.axes.keys() & set(RESULTS)):
    raise ConfigError(f"axes: {repeated[0]}: the runs table has a column of this name, choose another name")
  # An axis over a key that has a column, such as `tokens: [10x, 20x]`, adds nothing to that column.
  return row | {name: value for name, value in run.axes.items() if name not in row}


def _sparsity_and_counts(manifest: Manifest, run: Run, config: Mapping[str, Any]) -> tuple[float, ActiveCounts]:
  """S, and the counts of active weights."""
  keys = parse_keys(config)
  if not keys.is_active:
    return keys.sparsity, ActiveCounts(run.num_prunable, run.num_prunable)
  counts = count_active(manifest, run, build_schedule(keys, run.steps))
  if keys.sparsity > 0 and not keys.prune_groups:
    return keys.sparsity, counts
  # The zeros of a `hold` run are those of its checkpoint, and a structure or groups have sparsities of their own.
  return round(1.0 - counts.final / run.num_prunable, 6), counts
