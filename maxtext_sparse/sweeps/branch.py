"""Starts a run from a checkpoint of its trunk: a copy of the parameters, the optimizer state and the data position."""

from typing import Any

from maxtext_sparse.errors import RunError
from maxtext_sparse.runs.metrics import read_rows, read_uploaded_rows, text_of, write_rows
from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.state import checkpoint_steps, epath_of, is_local, metrics_file

# Ends the name of a checkpoint that is being copied. MaxText reads only folders whose name is a number.
_ASIDE = "branching"


def branch(manifest: Manifest, run: Run) -> None:
  """Copies the trunk's checkpoint and metrics into a run's folder, local or in a bucket.

  A run without a trunk, or with checkpoints of its own, is left alone. If the copy is interrupted, the next call starts
  it again.

  Raises:
    RunError: the trunk does not have this checkpoint yet.
  """
  if run.trunk is None or checkpoint_steps(manifest, run):
    return
  trunk = manifest.find(run.trunk)
  assert run.branch_step is not None
  if run.branch_step not in checkpoint_steps(manifest, trunk):
    raise RunError(f"run {run.name}: trunk {trunk.name} has no checkpoint of step {run.branch_step} yet, run it first")
  _copy_metrics(manifest, trunk, run)
  source, folder = (epath_of(manifest.run_directory(r)) / "checkpoints" for r in (trunk, run))
  _copy_checkpoint(source / str(run.branch_step), folder, str(run.branch_step))


def _copy_checkpoint(source: Any, folder: Any, name: str) -> None:
  """Copies a checkpoint to `folder / name` so that it appears there only when it is complete."""
  target = folder / name
  if is_local(str(folder)):
    aside = folder / f".{name}.{_ASIDE}"
    if aside.exists():
      aside.rmtree()
    aside.parent.mkdir(parents=True, exist_ok=True)
    _copy_tree(source, aside)
    aside.rename(target)
    return
  # A bucket cannot rename a folder. There the last file that is copied makes the checkpoint complete.
  if target.exists():
    target.rmtree()
  _copy_tree(source, target)


def _copy_tree(source: Any, target: Any) -> None:
  """Copies all files of a checkpoint. `commit_success.txt`, which says that the others are complete, comes last."""
  target.mkdir(parents=True, exist_ok=True)
  for entry in sorted(source.iterdir(), key=lambda entry: (entry.name == "commit_success.txt", entry.name)):
    if entry.is_dir():
      _copy_tree(entry, target / entry.name)
    else:
      entry.copy(target / entry.name, overwrite=True)


def _copy_metrics(manifest: Manifest, trunk: Run, run: Run) -> None:
  """Copies the trunk's rows of the shared steps under the run's name."""
  directory = manifest.run_directory(run)
  if is_local(directory):
    write_rows(metrics_file(manifest, run), _shared_rows(read_rows(metrics_file(manifest, trunk)), run))
    return
  # As MaxText names the files that it uploads. A file in a bucket appears only when it is complete.
  target = epath_of(directory) / "metrics" / f"metrics_step_{0:06}_to_step_{run.branch_step:06}.txt"
  target.parent.mkdir(parents=True, exist_ok=True)
  target.write_text(text_of(_shared_rows(read_uploaded_rows(manifest.run_directory(trunk)), run)))


def _shared_rows(rows: list[dict[str, Any]], run: Run) -> list[dict[str, Any]]:
  assert run.branch_step is not None
  return [row | {"run_name": run.name} for row in rows if row["step"] <= run.branch_step]
