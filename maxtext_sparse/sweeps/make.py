"""`sweep make`: turns a sweep file into a folder with a config for each run. The same sweep file gives the same bytes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import os
import tempfile
from typing import Any

from maxtext_sparse.config import KEYS
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.cost import training_flops
from maxtext_sparse.sweeps.manifest import config_text, Manifest, Run
from maxtext_sparse.sweeps.points import expand, Point
from maxtext_sparse.sweeps.resolve import check_point, Resolved, Resolver, SCHEDULE_KEYS
from maxtext_sparse.sweeps.spec import read_spec, Spec
from maxtext_sparse.sweeps.trunks import find_trunks, Trunk
from maxtext_sparse.sweeps.writing import check_folder, replace_folder


@dataclasses.dataclass(frozen=True)
class Member:
  """A run with its name. Whether it starts from a trunk is not known yet.

  Attributes:
    name: the run's name.
    labels: axis -> its part of the name.
    axes: axis -> value.
    resolved: the run's config and sizes.
  """

  name: str
  labels: dict[str, str]
  axes: dict[str, Any]
  resolved: Resolved


def make(spec_path: str, out: str) -> Manifest:
  """Writes the folder `out` for a sweep file.

  Raises:
    ConfigError: the sweep file has a problem, or a run in `out` has begun with another config. Then nothing is written.
  """
  spec = read_spec(spec_path)
  check_folder(out)
  members = plan_members(spec, os.path.dirname(os.path.abspath(spec_path)))
  trunks = find_trunks([member.resolved for member in members], spec.trunk_checkpoint_period) if spec.trunk else []
  texts: dict[str, str] = {}
  runs = []
  for name, config, fields in _entries(spec, members, trunks):
    texts[name] = config_text(config | _places(spec, name))
    digest = hashlib.sha256(texts[name].encode()).hexdigest()
    runs.append(Run(name=name, config=f"runs/{name}.yml", steps=int(config["steps"]), digest=digest, **fields))
  _refuse_same_names([run.name for run in runs])
  manifest = Manifest(out, spec.name, spec.output_directory, tuple(runs), spec.model_dump())
  replace_folder(manifest, texts)
  return manifest


def plan_members(spec: Spec, folder: str) -> list[Member]:
  """All runs of a sweep file. The twins of a sparse run follow it.

  Args:
    spec: the sweep file.
    folder: the sweep file's folder, in which config files are looked up.

  Raises:
    ConfigError: a run cannot be trained; the message names it.
  """
  with tempfile.TemporaryDirectory(prefix="maxtext_sparse_") as scratch:
    return list(_members(spec, folder, Resolver(spec.devices, scratch)).values())


def _members(spec: Spec, folder: str, resolver: Resolver) -> dict[str, Member]:
  members: dict[str, Member] = {}
  points = expand(spec, folder)
  # All points are checked before MaxText is asked for the first one, which takes seconds.
  for point in points:
    with _named(spec, point):
      check_point(point.keys)
  for point in points:
    with _named(spec, point) as name:
      run = resolver.resolve(point.files, point.keys)
      _require_eval(run.config)
      twins = resolver.twins(run) if spec.twins and run.schedule is not None else []
    if name in members:
      raise ConfigError(f"axes: two runs would have the name {name}, give one axis labels")
    members[name] = Member(name, point.labels, point.axes, run)
    # Two sparse runs may have the same dense neighbour, which then is one run. It may also be a run of the axes.
    new = _not_planned(twins, members.values()) if twins else []
    members |= {twin.name: twin for twin in _name_twins(spec, point, new)}
  return members


def _not_planned(twins: Iterable[Resolved], members: Iterable[Member]) -> list[Resolved]:
  """The twins that are not among the dense members."""
  planned = [_dense_config(member.resolved) for member in members if member.resolved.schedule is None]
  return [twin for twin in twins if _dense_config(twin) not in planned]


@contextlib.contextmanager
def _named(spec: Spec, point: Point) -> Iterator[str]:
  """Names the run of a point, and puts its name before the errors of the with block."""
  name = "-".join([spec.name, *filter(None, point.labels.values())])
  try:
    yield name
  except ConfigError as error:
    raise ConfigError(f"run {name}: {error}") from None


def _dense_config(run: Resolved) -> dict[str, Any]:
  """The keys that matter to a dense run."""
  return {key: value for key, value in run.config.items() if key not in SCHEDULE_KEYS}


def _name_twins(spec: Spec, point: Point, twins: Iterable[Resolved]) -> Iterable[Member]:
  """Names the twins of a sparse run by what it shares with them, which is all but pruning, and by their hidden size."""
  labels = {axis: label for axis, label in point.labels.items() if axis not in KEYS}
  axes = {axis: value for axis, value in point.axes.items() if axis not in KEYS} | {"sparsity": 0.0}
  for twin in twins:
    size = f"dense-e{twin.config['base_emb_dim']}"
    yield Member("-".join([spec.name, *filter(None, labels.values()), size]), labels, axes, twin)


def _entries(
  spec: Spec, members: Sequence[Member], trunks: Sequence[Trunk]
) -> Iterable[tuple[str, dict[str, Any], dict[str, Any]]]:
  """Name, config and further fields of every run. A trunk comes before its branches."""
  trunk_of = {index: trunk for trunk in trunks for index in trunk.members}
  names: dict[int, str] = {}
  for index, member in enumerate(members):
    trunk = trunk_of.get(index)
    if trunk is not None and id(trunk) not in names:
      names[id(trunk)] = _trunk_name(spec, [members[i] for i in trunk.members], names.values())
      fields = _fields(member, kind="trunk", trunk=None, branch_step=None, axes={})
      # Its only event is at its last step, so all its steps are dense.
      dense = training_flops(trunk.steps * fields["num_prunable"], fields["batch_tokens"])
      yield names[id(trunk)], trunk.config, fields | {"num_events": 1, "effective_flops": dense}
    source = None if trunk is None else names[id(trunk)]
    step = None if trunk is None else trunk.members[index]
    yield member.name, member.resolved.config, _fields(member, "run", source, step, member.axes)


def _fields(
  member: Member, kind: str, trunk: str | None, branch_step: int | None, axes: dict[str, Any]
) -> dict[str, Any]:
  run = member.resolved
  sizes = {name: getattr(run, name) for name in ("num_prunable", "batch_tokens", "flops_per_token", "effective_flops")}
  events = None if run.schedule is None else len(run.schedule.event_steps)
  return {"kind": kind, "trunk": trunk, "branch_step": branch_step, "axes": axes, "num_events": events} | sizes


def _trunk_name(spec: Spec, branches: Sequence[Member], taken: Iterable[str]) -> str:
  """A trunk's name: the sweep's, the word trunk, and the labels that all branches share on axes other than pruning.

  A trunk whose name is taken gets a number at the end.
  """
  shared = [
    label
    for axis, label in branches[0].labels.items()
    if axis not in KEYS and label and all(branch.labels.get(axis) == label for branch in branches)
  ]
  name = "-".join([spec.name, "trunk", *shared])
  number = sum(other == name or other.startswith(f"{name}-n") for other in taken)
  return f"{name}-n{number + 1}" if number else name


def _places(spec: Spec, name: str) -> dict[str, Any]:
  """Keys that say where a run writes. If that is a bucket, MaxText uploads the metrics itself."""
  places = {"run_name": name, "base_output_directory": spec.output_directory}
  if "://" in spec.output_directory:
    return places | {"gcs_metrics": True}
  return places | {"metrics_file": f"{spec.output_directory}/{name}/metrics.jsonl"}


def _require_eval(config: Mapping[str, Any]) -> None:
  """Raises ConfigError for a run that would have no final eval loss, or that could not go on after a stop."""
  interval = config.get("eval_interval", -1)
  if interval <= 0:
    raise ConfigError(f"eval_interval={interval}: the runs are compared by their final eval loss, give a number of steps")
  if not config.get("enable_checkpointing", True):
    raise ConfigError("enable_checkpointing=False: a run that stops could not go on, leave it out")


def _refuse_same_names(names: Sequence[str]) -> None:
  for name, number in Counter(names).items():
    if number > 1:
      raise ConfigError(f"axes: two runs would have the name {name}, give one axis labels")
