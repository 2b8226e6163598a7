"""Submits a sweep to a cluster: one workload per run, trunks before their branches, each of them once."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import fnmatch

from maxtext_sparse.cluster.command import read_arguments
from maxtext_sparse.cluster.names import workload_name
from maxtext_sparse.cluster.placement import Placement
from maxtext_sparse.cluster.submissions import Submissions, SUBMITTED, SUBMITTING
from maxtext_sparse.cluster.workload import make_workload, Workload
from maxtext_sparse.cluster.xpk import WorkloadExistsError, Xpk
from maxtext_sparse.errors import ConfigError, did_you_mean
from maxtext_sparse.runs.files import folder_lock
from maxtext_sparse.sweeps.branch import branch
from maxtext_sparse.sweeps.manifest import Manifest, read_manifest, Run
from maxtext_sparse.sweeps.state import as_of_now, is_finished

FINISHED, ALREADY, WAITING, READY, DONE = "finished", "already submitted", "waiting", "ready", "submitted"


@dataclasses.dataclass(frozen=True)
class Entry:
  """A run of a sweep and its state.

  Attributes:
    run: the run, from the sweep's manifest.
    workload: its name on the cluster.
    state: `finished`, `already submitted`, `waiting` for its trunk, `ready`, or `submitted` by this call.
    manifest: the JobSet as YAML in a dry run, otherwise None.
  """

  run: Run
  workload: str
  state: str
  manifest: str | None = None

  def to_dict(self) -> dict[str, str | None]:
    """The entry for JSON. `waits_for` is the trunk that a waiting run needs, `manifest` appears in a dry run only."""
    waits_for = self.run.trunk if self.state == WAITING else None
    shown = {} if self.manifest is None else {"manifest": self.manifest}
    return {"run": self.run.name, "workload": self.workload, "state": self.state, "waits_for": waits_for, **shown}


def run_workload_name(manifest: Manifest, run: Run) -> str:
  """Returns the run's name with the sweep's name in front, because one cluster may run several sweeps."""
  prefix = f"{manifest.name}-"
  return workload_name(run.name if run.name.startswith(prefix) else prefix + run.name)


def dry_run_sweep(directory: str, placement: Placement, xpk: Xpk, only: str = "*") -> Iterator[Entry]:
  """Yields what `submit_sweep` would do now, with the JobSets. It changes nothing and reads no bucket."""
  manifest = read_manifest(directory)
  finished = _is_never_finished if "://" in manifest.output_path else is_finished
  for entry in _plan(manifest, Submissions(directory), only, (), finished):
    if entry.state == READY:
      workload = _workload(manifest, entry, placement)
      entry = dataclasses.replace(entry, manifest=xpk.dry_run(workload))
    yield entry


def submit_sweep(
  directory: str, placement: Placement, xpk: Xpk, only: str = "*", resubmit: Sequence[str] = ()
) -> Iterator[Entry]:
  """Submits every run that is ready: trunks, runs without a trunk, and branches whose trunk is finished.

  All runs are checked before the first one is submitted.

  Args:
    directory: the sweep's folder.
    placement: where and how to submit.
    xpk: the program that submits.
    only: glob over run names; other runs are left out.
    resubmit: names of runs to submit again.

  Yields:
    Each run after its turn.

  Raises:
    ConfigError: a run cannot be submitted, or an earlier submission never reported back.
    RunError: xpk failed.
  """
  manifest = read_manifest(directory)
  with folder_lock(directory, f"{directory}: another sweep submit is running on it, wait until it ends"):
    manifest = as_of_now(manifest)
    submissions = Submissions(directory)
    entries = list(_plan(manifest, submissions, only, resubmit, is_finished))
    workloads = {e.run.name: _workload(manifest, e, placement) for e in entries if e.state == READY}
    for entry in entries:
      if entry.state == READY:
        _submit(manifest, entry.run, workloads[entry.run.name], xpk, submissions)
        entry = dataclasses.replace(entry, state=DONE)
      elif entry.state == FINISHED and submissions.status(entry.workload) == SUBMITTING:
        submissions.finish(entry.workload)  # the submission that never reported back has worked
      yield entry


def _is_never_finished(manifest: Manifest, run: Run) -> bool:
  """Stands for `is_finished` where the answer would need a bucket."""
  del manifest, run
  return False


def _plan(
  manifest: Manifest,
  submissions: Submissions,
  only: str,
  resubmit: Sequence[str],
  finished: Callable[[Manifest, Run], bool],
) -> Iterator[Entry]:
  names = {run.name: run_workload_name(manifest, run) for run in manifest.runs}
  _check_selection(names, only, resubmit)
  for run in manifest.runs:
    if fnmatch.fnmatchcase(run.name, only):
      again = run.name in resubmit or names[run.name] in resubmit
      yield Entry(run, names[run.name], _state(manifest, run, names[run.name], submissions, again, finished))


def _state(
  manifest: Manifest,
  run: Run,
  workload: str,
  submissions: Submissions,
  again: bool,
  finished: Callable[[Manifest, Run], bool],
) -> str:
  status = None if again else submissions.status(workload)
  if status and not submissions.has(workload, run.digest):
    raise ConfigError(
      f"{workload}: its config has changed since it was submitted; delete the workload, then use --resubmit {run.name}"
    )
  if finished(manifest, run):
    return FINISHED
  if status == SUBMITTING:
    raise ConfigError(
      f"{workload}: an earlier submission never reported back and may have worked; --resubmit {run.name} tries again"
      " and accepts a workload of that name as this run"
    )
  if status:
    return ALREADY
  return READY if run.trunk is None or finished(manifest, manifest.find(run.trunk)) else WAITING


def _check_selection(names: dict[str, str], only: str, resubmit: Sequence[str]) -> None:
  by_workload = {workload: run for run, workload in names.items()}
  if len(by_workload) < len(names):
    twice = next(run for run, workload in names.items() if by_workload[workload] != run)
    raise ConfigError(f"{twice}: another run of the sweep has the same workload name {names[twice]}, rename one")
  for name in resubmit:
    if name not in names and name not in by_workload:
      raise ConfigError(f"--resubmit={name}: no such run{did_you_mean(name, names, cutoff=0.0)}")
  if not fnmatch.filter(names, only):
    raise ConfigError(f"--only={only}: matches none of the {len(names)} runs, such as {next(iter(names))}")


def _workload(manifest: Manifest, entry: Entry, placement: Placement) -> Workload:
  try:
    arguments = read_arguments([manifest.config_path(entry.run)])
    return make_workload(arguments, placement, entry.workload)
  except ConfigError as error:
    raise ConfigError(f"{entry.run.name}: {error}") from None


def _submit(manifest: Manifest, run: Run, workload: Workload, xpk: Xpk, submissions: Submissions) -> None:
  """Submits one run. A workload that exists is accepted only if a submission of this run, as it is now, is in doubt."""
  was_in_doubt = submissions.status(workload.name) == SUBMITTING and submissions.has(workload.name, run.digest)
  xpk.dry_run(workload)
  if run.trunk is not None:
    branch(manifest, run)
  submissions.begin(workload.name, run=run.name, digest=run.digest, **_where(workload.placement))
  try:
    xpk.create(workload)
  except WorkloadExistsError as error:
    if not was_in_doubt:
      submissions.forget(workload.name)
      raise ConfigError(f"{workload.name}: the cluster has a workload of that name; delete it first ({error})") from None
  submissions.finish(workload.name)
  assert submissions.status(workload.name) == SUBMITTED


def _where(placement: Placement) -> dict[str, str]:
  return {"cluster": placement.cluster, "project": placement.project, "zone": placement.zone}
