"""A sweep on a cluster: one workload per run, trunks before their branches, each submitted once."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import difflib
import fnmatch

from maxtext_sparse.cluster.arguments import read_config
from maxtext_sparse.cluster.names import workload_name
from maxtext_sparse.cluster.submissions import Submissions, SUBMITTED, SUBMITTING
from maxtext_sparse.cluster.workload import make_workload, Settings, Workload
from maxtext_sparse.cluster.xpk import WorkloadExistsError, Xpk
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.files import folder_lock
from maxtext_sparse.sweeps.branch import branch
from maxtext_sparse.sweeps.manifest import Manifest, read_manifest, Run
from maxtext_sparse.sweeps.state import is_finished

FINISHED, ALREADY, WAITING, READY, DONE = "finished", "already submitted", "waiting", "ready", "submitted"


@dataclasses.dataclass(frozen=True)
class Entry:
  """A run and where it stands.

  Attributes:
    run: of the manifest.
    workload: its name on the cluster.
    state: `finished`, `already submitted`, `waiting` for its trunk, `ready`, or `submitted` by this call.
    manifest: YAML of the JobSet, in a dry run.
  """

  run: Run
  workload: str
  state: str
  manifest: str | None = None

  def to_dict(self) -> dict[str, str | None]:
    waits_for = self.run.trunk if self.state == WAITING else None
    shown = {} if self.manifest is None else {"manifest": self.manifest}
    return {"run": self.run.name, "workload": self.workload, "state": self.state, "waits_for": waits_for, **shown}


def run_workload_name(manifest: Manifest, run: Run) -> str:
  """The sweep's name goes before the run's: a cluster may have several sweeps."""
  prefix = f"{manifest.name}-"
  return workload_name(run.name if run.name.startswith(prefix) else prefix + run.name)


def dry_run_sweep(directory: str, settings: Settings, xpk: Xpk, only: str = "*") -> Iterator[Entry]:
  """What `submit_sweep` would submit now, with the JobSets; changes nothing and reads no bucket."""
  manifest = read_manifest(directory)
  finished = is_finished if "://" not in manifest.output_path else lambda manifest, run: False
  for entry in _plan(manifest, Submissions(directory), only, (), finished):
    if entry.state == READY:
      workload = _workload(manifest, entry, settings, is_real=False)
      entry = dataclasses.replace(entry, manifest=xpk.dry_run(workload))
    yield entry


def submit_sweep(
  directory: str, settings: Settings, xpk: Xpk, only: str = "*", resubmit: Sequence[str] = ()
) -> Iterator[Entry]:
  """Submits every run that is ready: trunks, runs without one, and branches whose trunk is finished.

  Args:
    directory: a sweep's folder.
    settings: where and how.
    xpk: submits.
    only: glob over run names.
    resubmit: names of runs to submit although they were before.

  Yields:
    Each run, after its turn.

  Raises:
    ConfigError: a run cannot be submitted, or an earlier submission of one did not come back.
    RunError: xpk failed.
  """
  manifest = read_manifest(directory)
  with folder_lock(directory, f"{directory}: another sweep submit is running on it, wait for its end"):
    submissions = Submissions(directory)
    entries = list(_plan(manifest, submissions, only, resubmit, is_finished))
    workloads = {e.run.name: _workload(manifest, e, settings, is_real=True) for e in entries if e.state == READY}
    for entry in entries:
      if entry.state == READY:
        _submit(manifest, entry.run, workloads[entry.run.name], xpk, submissions)
        entry = dataclasses.replace(entry, state=DONE)
      yield entry


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
  status = submissions.status(workload)
  if status and not again:
    if status == SUBMITTING:
      raise ConfigError(
        f"{workload}: an earlier submission did not come back and may have worked; --resubmit {run.name} tries again"
        " and takes a workload that exists for it"
      )
    if submissions.workloads[workload]["digest"] != run.digest:
      raise ConfigError(
        f"{workload}: its config changed since it was submitted; delete the workload, then --resubmit {run.name}"
      )
  if finished(manifest, run):
    return FINISHED
  if status and not again:
    return ALREADY
  return READY if run.trunk is None or finished(manifest, manifest.find(run.trunk)) else WAITING


def _check_selection(names: dict[str, str], only: str, resubmit: Sequence[str]) -> None:
  by_workload = {workload: run for run, workload in names.items()}
  if len(by_workload) < len(names):
    twice = next(run for run, workload in names.items() if by_workload[workload] != run)
    raise ConfigError(f"{twice}: another run of the sweep has the same workload name {names[twice]}, rename one")
  for name in resubmit:
    if name not in names and name not in by_workload:
      near = difflib.get_close_matches(name, names, n=1, cutoff=0)
      raise ConfigError(f"--resubmit={name}: no such run, did you mean {near[0]}?")
  if not fnmatch.filter(names, only):
    raise ConfigError(f"--only={only}: matches none of the {len(names)} runs, such as {next(iter(names))}")


def _workload(manifest: Manifest, entry: Entry, settings: Settings, is_real: bool) -> Workload:
  arguments = read_config(manifest.config_path(entry.run))
  try:
    return make_workload(arguments, settings, entry.workload, is_real)
  except ConfigError as error:
    raise ConfigError(f"{entry.run.name}: {error}") from None


def _submit(manifest: Manifest, run: Run, workload: Workload, xpk: Xpk, submissions: Submissions) -> None:
  was_in_doubt = submissions.status(workload.name) == SUBMITTING
  xpk.dry_run(workload)
  if run.trunk is not None:
    branch(manifest, run)
  submissions.begin(workload.name, run=run.name, digest=run.digest, **_where(workload.settings))
  try:
    xpk.create(workload)
  except WorkloadExistsError as error:
    if not was_in_doubt:
      submissions.forget(workload.name)
      raise ConfigError(f"{workload.name}: the cluster has a workload of that name; delete it first ({error})") from None
  submissions.finish(workload.name)
  assert submissions.status(workload.name) == SUBMITTED


def _where(settings: Settings) -> dict[str, str]:
  return {"cluster": settings.cluster, "project": settings.project, "zone": settings.zone}
