"""A branch begins as a copy of its trunk's checkpoint: parameters, optimizer state and data position."""

from typing import Any

from maxtext_sparse.errors import RunError
from maxtext_sparse.runs.metrics import read_rows, read_uploaded_rows, text_of
from maxtext_sparse.sweeps.manifest import Manifest, Run
from maxtext_sparse.sweeps.state import checkpoint_steps, is_local, metrics_file

# Beside the checkpoint while it is copied; MaxText reads folders named by a number alone.
_ASIDE = "branching"


def branch(manifest: Manifest, run: Run) -> None:
  """Copies the trunk's checkpoint and its metrics into a run's folder, once; a run that has checkpoints is left alone.

  Local folders and buckets. Killed on the way, the next call begins anew.

  Raises:
    RunError: the trunk has no such checkpoint yet.
  """
  if run.trunk is None or checkpoint_steps(manifest, run):
    return
  trunk = manifest.find(run.trunk)
  assert run.branch_step is not None
  if run.branch_step not in checkpoint_steps(manifest, trunk):
    raise RunError(f"run {run.name}: trunk {trunk.name} has no checkpoint of step {run.branch_step} yet, run it first")
  _copy_metrics(manifest, trunk, run)
  source, folder = (_path(manifest.run_directory(r)) / "checkpoints" for r in (trunk, run))
  _copy_checkpoint(source / str(run.branch_step), folder, str(run.branch_step))


def _copy_checkpoint(source: Any, folder: Any, name: str) -> None:
  """Copied aside and renamed; in a bucket, where folders cannot be renamed, the file that completes it comes last."""
  target = folder / name
  if is_local(str(folder)):
    aside = folder / f".{name}.{_ASIDE}"
    if aside.exists():
      aside.rmtree()
    aside.parent.mkdir(parents=True, exist_ok=True)
    _copy_tree(source, aside)
    aside.rename(target)
    return
  if target.exists():
    target.rmtree()
  _copy_tree(source, target)


def _copy_tree(source: Any, target: Any) -> None:
  """Every file of a checkpoint; `commit_success.txt`, which declares the rest complete, last."""
  target.mkdir(parents=True, exist_ok=True)
  for entry in sorted(source.iterdir(), key=lambda entry: (entry.name == "commit_success.txt", entry.name)):
    if entry.is_dir():
      _copy_tree(entry, target / entry.name)
    else:
      entry.copy(target / entry.name, overwrite=True)


def _copy_metrics(manifest: Manifest, trunk: Run, run: Run) -> None:
  """The trunk's rows up to the branch, as the run would have written them itself."""
  directory = manifest.run_directory(run)
  if is_local(directory):
    shared, target = read_rows(metrics_file(manifest, trunk)), _path(metrics_file(manifest, run))
  else:
    shared = read_uploaded_rows(manifest.run_directory(trunk))
    target = _path(directory) / "metrics" / f"metrics_step_{0:06}_to_step_{run.branch_step:06}.txt"
  rows = [row | {"run_name": run.name} for row in shared if row["step"] <= run.branch_step]
  target.parent.mkdir(parents=True, exist_ok=True)
  target.write_text(text_of(rows))


def _path(path: str) -> Any:
  from etils import epath  # comes with MaxText

  return epath.Path(path)
