"""The report of a study: its runs, their curves, N(t), the law that they give, and the frontier."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import os
from typing import Any

import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.curves import Curve, make_curve
from maxtext_sparse.laws.request import FitRequest
from maxtext_sparse.plots import draw, style
from maxtext_sparse.plots.study import draw_curves
from maxtext_sparse.reports.document import Block, DataTable, Document, Heading, Paragraph, Picture
from maxtext_sparse.runs.columns import COLUMNS
from maxtext_sparse.runs.metrics import once_per_step, read_rows, read_uploaded_rows, train_rows
from maxtext_sparse.sweeps.collect import collect, write_table
from maxtext_sparse.sweeps.manifest import Manifest, read_manifest
from maxtext_sparse.sweeps.state import is_local, metrics_file

_NUM_RESAMPLES = 200
_FIGURES = {
  "accuracy": "Loss that the law predicts against the actual loss.",
  "isoflop": "Loss against average size at equal effective compute, with the law's dense optimum.",
  "frontier": "Least loss for each final size at equal effective compute, dense and sparse.",
}


def write_study_report(directory: str, out: str, is_unfinished_allowed: bool, law: str = "average") -> dict[str, Any]:
  """Writes report.md, report.html, tables and figures of a sweep.

  Args:
    directory: the sweep's folder.
    out: folder of the report.
    is_unfinished_allowed: whether to leave out runs that are not finished instead of refusing.
    law: the law to fit.

  Returns:
    What `sweep report --json` prints: `out`, `n`, `files`, and `left_out`, a line for each part that is missing and why.

  Raises:
    ConfigError: a run is not finished, or no run is.
  """
  manifest = read_manifest(directory)
  rows = collect(directory, is_unfinished_allowed)
  table = os.path.join(out, "RUNS.csv")
  try:
    os.makedirs(out, exist_ok=True)
  except OSError as error:
    raise ConfigError(f"--out={out}: cannot write ({error.strerror or error})") from error
  write_table(table, rows)
  left_out: list[str] = []
  blocks = list(_blocks(manifest, rows, table, out, law, left_out))
  if left_out:
    blocks += [Heading("Left out"), *(Paragraph(line) for line in left_out)]
  files = Document(f"Study {manifest.name}", blocks).write(out)
  pictures = [block.path for block in blocks if isinstance(block, Picture)]
  return {"out": out, "n": len(rows), "files": [*files, table, *pictures], "left_out": left_out}


def _blocks(
  manifest: Manifest, rows: Sequence[Mapping[str, Any]], table: str, out: str, law: str, left_out: list[str]
) -> Iterator[Block]:
  num_runs = sum(run.kind == "run" for run in manifest.runs)
  yield Paragraph(f"{len(rows)} of {num_runs} runs are finished. {manifest.num_trunks} trunks are shared.")
  yield Heading("Runs")
  yield _runs_table(rows)
  curves = list(_curves(manifest, rows, left_out))
  if curves:
    yield Heading("Training")
    yield _curves_picture(curves, out)
  fitted = [*_tried(lambda: _law_blocks(table, law), "law", left_out)]
  for figure, caption in _FIGURES.items():
    fitted += _tried(lambda name=figure, text=caption: [_drawn(name, text, table, out, law)], figure, left_out)  # type: ignore[misc]
  if fitted:
    yield Heading(f"Law {law}")
    yield from fitted


def _tried(make: Callable[[], Sequence[Block]], name: str, left_out: list[str]) -> Sequence[Block]:
  """The blocks; where the study cannot give them, none, and a line that says why."""
  try:
    return make()
  except ConfigError as error:
    left_out.append(f"{name}: {error}")
    return []


def _law_blocks(table: str, law: str) -> Sequence[Block]:
  summary = FitRequest(table, law).summary(_NUM_RESAMPLES, is_held_out=True)
  return [
    Paragraph(f"{summary.fit.law.equation}, N = {summary.fit.law.size}. Mean absolute error {summary.fit.mae:.4f}."),
    DataTable("coefficients", ("coefficient", "value", "std. error", "unit"), list(summary.coefficient_rows())),
    DataTable("errors_by_sparsity", summary.error_header(), list(summary.error_rows())),
  ]


def _drawn(figure: str, caption: str, table: str, out: str, law: str) -> Picture:
  return Picture(draw(figure, [table], os.path.join(out, "figures"), law)["files"][0], caption)


def _curves_picture(curves: Sequence[Curve], out: str) -> Picture:
  with style.in_style():
    path = style.save(draw_curves(curves), os.path.join(out, "figures", "curves"))[0]
  return Picture(path, "Training loss over tokens, and active parameters over the run.")


def _runs_table(rows: Sequence[Mapping[str, Any]]) -> DataTable:
  """The runs' results first, then the settings in which they differ."""
  frame = pd.DataFrame(rows)
  settings = [column for column in frame if column not in COLUMNS and frame[column].nunique(dropna=False) > 1]
  columns = [*COLUMNS, *settings]
  return DataTable("runs", columns, [tuple(_cell(row[column]) for column in columns) for _, row in frame.iterrows()])


def _cell(value: Any) -> str:
  return f"{value:.6g}" if isinstance(value, (int, float)) else str(value)


def _curves(manifest: Manifest, rows: Sequence[Mapping[str, Any]], left_out: list[str]) -> Iterator[Curve]:
  """The training of each run, its trunk's steps included where it has any; those of a bucket are read there."""
  dense = {row["run"]: float(row["dense_params"]) for row in rows}
  for run in manifest.runs:
    if run.name not in dense:
      continue
    folder = manifest.run_directory(run)
    try:
      metrics = once_per_step(read_rows(metrics_file(manifest, run)) if is_local(folder) else read_uploaded_rows(folder))
    except (ConfigError, OSError) as error:
      left_out.append(f"curve of {run.name}: {error}")
      continue
    if len(train_rows(metrics)) > 1:
      yield make_curve(run.name, metrics, dense[run.name])
    else:
      left_out.append(f"curve of {run.name}: its metrics have no training steps")
