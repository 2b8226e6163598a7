"""Starts a run from a checkpoint of its trunk: a copy of the parameters, the optimizer state and the data position."""

import shutil
from typing import Any

from maxtext_sparse.errors import RunError
from maxtext_sparse.runs.listing import copy_files, Listing, reachable
from maxtext_sparse.runs.metrics import read_rows, read_uploaded_rows, text_of, write_rows
from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.state import checkpoint_steps, COMPLETE, epath_of, folder_of, is_local, metrics_file

# Ends the name of a checkpoint that is being copied. MaxText reads only folders whose name is a number.
_ASIDE = "branching"


def branch(manifest: Manifest, run: Run) -> None:
  """Copies the trunk's checkpoint and metrics into a run's folder, local or in a bucket.

  A run without a trunk, or with checkpoints of its own, is left alone. If the copy is interrupted, the next call starts
  it again.

  Raises:
    RunError: the trunk does not have this checkpoint yet.
    ConfigError: the bucket cannot be read or written.
  """
  if run.trunk is None or checkpoint_steps(manifest, run):
    return
  trunk = manifest.find(run.trunk)
  assert run.branch_step is not None
  if run.branch_step not in checkpoint_steps(manifest, trunk):
    raise RunError(f"run {run.name}: trunk {trunk.name} has no checkpoint of step {run.branch_step} yet, run it first")
  with reachable(manifest.run_directory(run), "written"):
    _copy_metrics(manifest, trunk, run)
    _copy_checkpoint(manifest, trunk, run)


def drop_checkpoint(manifest: Manifest, run: Run, step: int) -> None:
  """Removes a checkpoint of a run. If that is interrupted, what is left does not count as a checkpoint."""
  folder = epath_of(manifest.run_directory(run)) / "checkpoints" / str(step)
  with reachable(str(folder), "written"):
    (folder / COMPLETE).unlink(missing_ok=True)
    if folder.exists():
      folder.rmtree()


def _copy_checkpoint(manifest: Manifest, trunk: Run, run: Run) -> None:
  """Copies the trunk's checkpoint so that it appears in the run's folder only when it is complete."""
  source, folder = (epath_of(manifest.run_directory(r)) / "checkpoints" for r in (trunk, run))
  name = str(run.branch_step)
  if is_local(str(folder)):
    aside = folder / f".{name}.{_ASIDE}"
    if aside.exists():
      aside.rmtree()
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source / name, aside)
    aside.rename(folder / name)
    return
  assert run.branch_step is not None
  drop_checkpoint(manifest, run, run.branch_step)
  # A bucket cannot rename a folder. There the last file that is copied makes the checkpoint complete.
  files = Listing(str(source / name)).files
  for group in ([file for file in files if file != COMPLETE], [COMPLETE]):
    copy_files(str(source / name), str(folder / name), group)


def _copy_metrics(manifest: Manifest, trunk: Run, run: Run) -> None:
  """Copies the trunk's rows of the shared steps under the run's name."""
  directory = manifest.run_directory(run)
  if is_local(directory):
    write_rows(metrics_file(manifest, run), _shared_rows(read_rows(metrics_file(manifest, trunk)), run))
    return
  # As MaxText names the files that it uploads. A file in a bucket appears only when it is complete.
  target = epath_of(directory) / "metrics" / f"metrics_step_{0:06}_to_step_{run.branch_step:06}.txt"
  target.parent.mkdir(parents=True, exist_ok=True)
  target.write_text(text_of(_shared_rows(read_uploaded_rows(folder_of(manifest, trunk)), run)))


def _shared_rows(rows: list[dict[str, Any]], run: Run) -> list[dict[str, Any]]:
  assert run.branch_step is not None
  return [row | {"run_name": run.name} for row in rows if row["step"] <= run.branch_step]
