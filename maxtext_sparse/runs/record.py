"""What a run writes beside its checkpoints: the schedule that it follows, and the counts after each event.

  <base_output_directory>/<run_name>/sparsity/schedule.json
  <base_output_directory>/<run_name>/sparsity/config.json
  <base_output_directory>/<run_name>/sparsity/versions.json
  <base_output_directory>/<run_name>/sparsity/event_00001200.json

There is one file per event, because object stores cannot append and a resumed run writes the events that it repeats
again. Each file is written whole or not at all.
"""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from etils import epath

from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.runs.event_files import DAMAGES, event_file_name, read_event_file, reason_of, step_of_name
from maxtext_sparse.schedule import Schedule

_SCHEDULE_FILE = "schedule.json"
_CONFIG_FILE = "config.json"
_VERSIONS_FILE = "versions.json"


@dataclasses.dataclass(frozen=True)
class Plan:
  """The part of a run that a resume must not change, and where it took effect.

  Attributes:
    schedule: the event list.
    prunable: paths of the pruned parameters.
    num_prunable: how many weights these have.
    begin_step: step at which the schedule came into force; its events before that did not happen.
    begin_active: prunable weights that were active at that step; all of them if None.
    rules: how each group of parameters is pruned, one phrase for each; empty in the records of older versions, which
      knew one rule alone.
  """

  schedule: Schedule
  prunable: tuple[str, ...]
  num_prunable: int
  begin_step: int = 0
  begin_active: int | None = None
  rules: tuple[str, ...] = ()

  def shifts(self, other: "Plan") -> bool:
    """Whether events, densities, the set of pruned parameters, or their rules differ."""
    ours, theirs = self.schedule, other.schedule
    if self.differs_in_rules(other):
      return True
    return (ours.event_steps, ours.densities, self.prunable) != (theirs.event_steps, theirs.densities, other.prunable)

  def differs_in_rules(self, other: "Plan") -> bool:
    """Whether both plans know their rules, and these differ."""
    return bool(self.rules and other.rules) and self.rules != other.rules

  def events_before(self, step: int) -> tuple[int, ...]:
    """The events before `step` that happened, in order."""
    return tuple(event for event in self.schedule.event_steps if self.begin_step <= event < step)

  def keep_count(self, event: int) -> int:
    """Number of weights that the schedule keeps at an event."""
    return self.schedule.keep_counts(self.num_prunable)[self.schedule.event_steps.index(event)]


class RunRecord:
  """Reads and writes one run's folder `sparsity`, local or on any store that epath knows."""

  def __init__(self, run_directory: Any, is_writer: bool = True):
    """Opens the record.

    Args:
      run_directory: the run's folder, the one that holds `checkpoints`: a path or URL, or a folder of a `Listing`.
      is_writer: False in all processes of a run but one; these only read.
    """
    folder = epath.Path(run_directory) if isinstance(run_directory, str) else run_directory
    self.directory = folder / "sparsity"
    self._is_writer = is_writer

  def read_plan(self) -> Plan | None:
    """The plan that the run began with; None if there is no record.

    Raises:
      ConfigError: the file is damaged.
    """
    path = self.directory / _SCHEDULE_FILE
    if not path.exists():
      return None
    try:
      raw = json.loads(path.read_text())
      schedule = Schedule(**{name: _as_tuple(value) for name, value in raw.pop("schedule").items()})
      return Plan(schedule, **{name: _as_tuple(value) for name, value in raw.items()})
    except DAMAGES as error:
      raise ConfigError(f"{path}: not a schedule record ({reason_of(error)}), restore it or move it away") from error

  def write_plan(self, plan: Plan) -> None:
    self._write(_SCHEDULE_FILE, dataclasses.asdict(plan))

  def write_config(self, flat: Mapping[str, Any]) -> None:
    """Writes the public keys of the run's MaxText config. MaxText itself leaves none beside a checkpoint."""
    self._write(_CONFIG_FILE, public_keys(flat))

  def read_config(self) -> dict[str, Any] | None:
    """The recorded keys; None if the run recorded none.

    Raises:
      ConfigError: the file is damaged.
    """
    return self._read_dict(_CONFIG_FILE, "recorded config")

  def write_versions(self, versions: Mapping[str, str]) -> None:
    """Writes the versions of the packages that train the run, those of its last start."""
    self._write(_VERSIONS_FILE, versions)

  def read_versions(self) -> dict[str, Any]:
    """Package -> version; {} if the run recorded none.

    Raises:
      ConfigError: the file is damaged.
    """
    return self._read_dict(_VERSIONS_FILE, "record of versions") or {}

  def write_event(self, step: int, event: Mapping[str, Any]) -> None:
    """Writes or replaces the record of the event at `step`."""
    self._write(event_file_name(step), {"step": step} | dict(event))

  def read_event(self, step: int) -> dict[str, Any] | None:
    """The record of the event at `step`; None if there is none.

    Raises:
      ConfigError: the file is damaged.
    """
    path = self.directory / event_file_name(step)
    return read_event_file(path, step) if path.exists() else None

  def last_event(self, before: int) -> dict[str, Any] | None:
    """The record of the last event before a step, whichever schedule it belonged to; None if there is none.

    Raises:
      ConfigError: a file in the folder is damaged or has a name that is none of ours.
    """
    step = max((step for step in self.recorded_steps() if step < before), default=None)
    return None if step is None else self.read_event(step)

  def recorded_steps(self) -> list[int]:
    """Steps of the events that have a record, in ascending order.

    Raises:
      ConfigError: a file in the folder looks like an event record and is none of ours.
    """
    paths = self.directory.glob("event_*") if self.directory.exists() else ()
    return sorted(step_of_name(path) for path in paths)

  def foreign_files(self) -> list[str]:
    """Files in the folder that are neither a record nor hidden, as those are that a killed run leaves; none is read."""
    paths = self.directory.iterdir() if self.directory.exists() else ()
    names = [path.name for path in paths if not path.name.startswith((".", "event_"))]
    return sorted(set(names) - {_SCHEDULE_FILE, _CONFIG_FILE, _VERSIONS_FILE})

  def drop_events(self, from_step: int) -> None:
    """Removes events that a resume from `from_step` will repeat.

    Raises:
      ConfigError: a file in the folder looks like an event record and is none of ours.
      RunError: a record cannot be removed.
    """
    for step in self.recorded_steps() if self._is_writer else ():
      path = self.directory / event_file_name(step)
      try:
        if step >= from_step:
          path.unlink()
      except OSError as error:
        raise RunError(
          f"{path}: cannot remove this record, which the run will write again ({reason_of(error)})"
        ) from error

  def _read_dict(self, name: str, kind: str) -> dict[str, Any] | None:
    path = self.directory / name
    if not path.exists():
      return None
    try:
      return dict(json.loads(path.read_text()))
    except DAMAGES as error:
      raise ConfigError(f"{path}: not a {kind} ({reason_of(error)}), restore it or move it away") from error

  def _write(self, name: str, content: Mapping[str, Any]) -> None:
    if not self._is_writer:
      return
    text = json.dumps(content, indent=1) + "\n"
    try:
      self._replace(name, text)
    except Exception as error:  # the client of a bucket has classes of its own
      raise RunError(
        f"{self.directory / name}: cannot write ({reason_of(error)}); the same command goes on from the last checkpoint"
      ) from error

  def _replace(self, name: str, text: str) -> None:
    self.directory.mkdir(parents=True, exist_ok=True)
    target = self.directory / name
    if "://" in str(target):
      target.write_text(text)  # an object in a bucket appears when its upload is complete, in the place of the old one
      return
    # Written aside and renamed, so that a killed run leaves the old file or the new one. (`runs.files` does this for
    # paths as text; this is a path of epath.)
    aside = self.directory / f".{name}.tmp"
    aside.write_text(text)
    aside.replace(target)


def public_keys(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The keys of a MaxText config without its secrets, as what JSON knows."""
  public = {key: value for key, value in flat.items() if not key.endswith("access_token")}
  return dict(json.loads(json.dumps(public, default=lambda value: getattr(value, "value", str(value)))))


def _as_tuple(value: Any) -> Any:
  """JSON knows lists only."""
  return tuple(value) if isinstance(value, list) else value
