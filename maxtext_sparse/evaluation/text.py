"""What `evaluate` prints."""

import os

from maxtext_sparse.evaluation.harness import Results
from maxtext_sparse.terminal import console, new_table, print_table


def print_results(results: Results) -> None:
  """A row for each metric of each task, a column for each folder, with standard errors."""
  names = {path: os.path.basename(os.path.normpath(path)) or path for path in results}
  if len(set(names.values())) < len(names):
    names = {path: path for path in results}
  table = new_table(["task", "metric", *names.values()], left=["metric"])
  first = next(iter(results.values()))
  for task, metrics in first.items():
    for metric in metrics:
      if not metric.endswith("_stderr"):
        table.add_row(task, metric, *(_cell(results[path].get(task, {}), metric) for path in results))
  print_table(console(), table)


def _cell(metrics: dict[str, float], metric: str) -> str:
  if metric not in metrics:
    return "-"
  error = metrics.get(f"{metric}_stderr")
  return f"{metrics[metric]:.4f}" + (f" ± {error:.4f}" if error is not None else "")
