"""Prints what was submitted, or would be."""

import yaml

from maxtext_sparse.cluster.submit import Entry, WAITING
from maxtext_sparse.cluster.workload import Workload
from maxtext_sparse.terminal import print_json


def print_submission(workload: Workload, manifest: str | None, as_json: bool) -> None:
  """Prints one run's submission.

  Args:
    workload: the run.
    manifest: the JobSet as YAML after a dry run, None after a real submission.
    as_json: print one JSON object.
  """
  if as_json:
    named = {"workload": workload.name, "run_name": workload.run_name, "command": workload.command}
    shown = {} if manifest is None else {"manifest": yaml.safe_load(manifest)}
    print_json({**named, "submitted": manifest is None, **shown})
  elif manifest is not None:
    print(manifest.rstrip())
  else:
    print(f"submitted {workload.name}, run_name={workload.run_name}")


def entry_text(entry: Entry) -> str:
  """Returns a comment line on one run of a sweep, after its JobSet in a dry run. All of them together are YAML."""
  detail = f" for {entry.run.trunk}" if entry.state == WAITING else ""
  manifest = "" if entry.manifest is None else f"---\n{entry.manifest.rstrip()}\n"
  return f"{manifest}# {entry.run.name}: {entry.state}{detail}, workload {entry.workload}"
