"""What a run writes beside its checkpoints: the schedule that it follows, and the densities after each event.

  <base_output_directory>/<run_name>/sparsity/schedule.json
  <base_output_directory>/<run_name>/sparsity/event_00001200.json

One file per event, because object stores cannot append and a resumed run rewrites the events it repeats.
"""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from etils import epath

from maxtext_sparse.config import ConfigError
from maxtext_sparse.schedule import Schedule

_SCHEDULE_FILE = "schedule.json"


@dataclasses.dataclass(frozen=True)
class Plan:
  """The part of a run that a resume must not change, and where it took effect.

  Attributes:
    schedule: the event list.
    prunable: paths of the pruned parameters.
    num_prunable: how many weights these have.
    begin_step: step at which the schedule came into force; events before it did not happen.
    begin_active: prunable weights active at that step.
  """

  schedule: Schedule
  prunable: tuple[str, ...]
  num_prunable: int
  begin_step: int = 0
  begin_active: int | None = None

  def shifts(self, other: "Plan") -> bool:
    """Whether events, densities or the set of pruned parameters differ."""
    ours, theirs = self.schedule, other.schedule
    return (ours.event_steps, ours.densities, self.prunable) != (theirs.event_steps, theirs.densities, other.prunable)


class RunRecord:
  """Reads and writes one run's sparsity folder, local or on any store that epath knows."""

  def __init__(self, run_directory: str, is_writer: bool = True):
    self.directory = epath.Path(run_directory) / "sparsity"
    self._is_writer = is_writer

  def read_plan(self) -> Plan | None:
    path = self.directory / _SCHEDULE_FILE
    if not path.exists():
      return None
    try:
      raw = json.loads(path.read_text())
      fields = raw.pop("schedule")
      schedule = Schedule(fields["steps"], tuple(fields["event_steps"]), tuple(fields["densities"]), fields["shape"])
      return Plan(schedule, prunable=tuple(raw.pop("prunable")), **raw)
    except (ValueError, TypeError, KeyError) as error:
      raise ConfigError(f"{path}: not a schedule record ({error}), restore or delete it") from error

  def write_plan(self, plan: Plan) -> None:
    self._write(_SCHEDULE_FILE, dataclasses.asdict(plan))

  def write_event(self, step: int, event: dict[str, Any]) -> None:
    self._write(_event_file(step), {"step": step} | event)

  def read_event(self, step: int) -> dict[str, Any] | None:
    path = self.directory / _event_file(step)
    return json.loads(path.read_text()) if path.exists() else None

  def drop_events(self, from_step: int) -> None:
    """Removes events that a resume from `from_step` will repeat."""
    if not self._is_writer or not self.directory.exists():
      return
    for path in self.directory.glob("event_*.json"):
      if int(path.stem.removeprefix("event_")) >= from_step:
        path.unlink()

  def _write(self, name: str, content: dict[str, Any]) -> None:
    if not self._is_writer:
      return
    self.directory.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that a killed run leaves the old file or the new one.
    aside = self.directory / f".{name}.tmp"
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.replace(self.directory / name)


def reconcile(recorded: Plan | None, asked: Plan, is_reschedule: bool) -> Plan:
  """The plan to follow on a resume.

  Raises:
    ConfigError: the keys ask for another plan than the one the run began with, shown side by side.
  """
  if recorded is None or is_reschedule:
    return asked
  if recorded.shifts(asked):
    what = "the set of pruned parameters" if recorded.schedule.event_steps == asked.schedule.event_steps else "schedule"
    raise ConfigError(
      f"{what}: this run began with {recorded.schedule.describe()} over {len(recorded.prunable)} parameters, the "
      f"config asks for {asked.schedule.describe()} over {len(asked.prunable)}; restore the old steps and sparsity "
      "keys, or set gmp_reschedule=True"
    )
  return dataclasses.replace(asked, begin_step=recorded.begin_step, begin_active=recorded.begin_active)


def refuse_dense_resume(recorded: Plan | None, is_reschedule: bool) -> None:
  """Raises ConfigError when a sparse run would go on without the plugin's mask and regrow its zeros."""
  if recorded is not None and not is_reschedule:
    raise ConfigError(
      f"sparsity=0: this run began with {recorded.schedule.describe()} and would regrow what it pruned; restore its "
      "sparsity keys, or set pruning_method=hold and gmp_reschedule=True to keep the zeros, or gmp_reschedule=True"
    )


def _event_file(step: int) -> str:
  return f"event_{step:08d}.json"


def thin_matrices(densities: dict[str, float], limit: float = 0.01) -> Sequence[str]:
  """Names of matrices whose density is below `limit`, thinnest first."""
  return sorted((name for name, density in densities.items() if density < limit), key=densities.__getitem__)


def begin_late(plan: Plan, start_step: int, num_nonzero: int) -> Plan:
  """The plan of a run that starts from a checkpoint without a record, a dense one for example.

  Where the checkpoint is as sparse as the schedule wants it, the earlier events are taken as done; else as missed.
  """
  schedule = plan.schedule
  keep_counts = schedule.keep_counts(plan.num_prunable)
  due = [keep for event, keep in zip(schedule.event_steps, keep_counts) if event < start_step]
  if not due or num_nonzero <= due[-1]:
    return plan
  return dataclasses.replace(plan, begin_step=start_step, begin_active=num_nonzero)
