"""Finds the dense steps that several runs share, so that they are trained only once.

A run is dense until its first pruning event. Sparse runs that differ only in their schedule are therefore equal until the
first of them prunes. One further run, the trunk, trains these steps and keeps its checkpoints. Each of the others, its
branches, starts from the trunk's last checkpoint before its own first event.

The trunk is a sparse run with a single event, at its last step, after the last checkpoint that a branch needs. A dense
run would compute the same up to rounding. The trunk comes closer: its train step contains the same operations as that of
its branches, and only the steps and densities of the events differ, which are constants of the program.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from maxtext_sparse.config import parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.sweeps.resolve import Resolved, SCHEDULE_KEYS


@dataclasses.dataclass(frozen=True)
class Trunk:
  """The dense steps that several runs share.

  Attributes:
    members: index of each branch among the runs -> step of the checkpoint that it starts from.
    config: the trunk's MaxText keys, without those of its name and folder.
  """

  members: dict[int, int]
  config: dict[str, Any]

  @property
  def steps(self) -> int:
    """Number of steps that the trunk trains."""
    # Steps 0 to N for the last checkpoint that a branch needs, N, and one more for the event.
    return max(self.members.values()) + 2

  @property
  def num_saved(self) -> int:
    """Number of steps that the branches do not train, less those of the trunk."""
    return sum(step + 1 for step in self.members.values()) - self.steps


def find_trunks(runs: Sequence[Resolved], checkpoint_period: int | None) -> list[Trunk]:
  """All trunks that save steps, in the order of their first branches.

  Args:
    runs: all runs of the sweep.
    checkpoint_period: steps between a trunk's checkpoints; the pruning frequency of its branches if None.

  Raises:
    ConfigError: the runs read their data in a way that cannot go on from a checkpoint.
  """
  groups: dict[str, list[int]] = {}
  for index, run in enumerate(runs):
    if run.schedule is not None and run.schedule.event_steps:  # A `hold` run has no dense steps and no events.
      groups.setdefault(_shared(run.config), []).append(index)
  found = [_trunk({index: runs[index] for index in group}, checkpoint_period) for group in groups.values()]
  return [trunk for trunk in found if trunk is not None and trunk.num_saved > 0]


def _trunk(group: Mapping[int, Resolved], checkpoint_period: int | None) -> Trunk | None:
  """The trunk of runs that differ only in their schedule; None if no checkpoint comes before an event."""
  first = next(iter(group.values()))
  period = checkpoint_period or min(parse_keys(run.config).gmp_pruning_frequency for run in group.values())
  starts = {index: run.schedule.start for index, run in group.items() if run.schedule is not None}
  # Checkpoint N holds the state after the update of step N, in which an event at N has acted. So N < start. With events
  # from step 16 on and a checkpoint every 2 steps, N is 14.
  members = {index: (start - 1) // period * period for index, start in starts.items() if start > period}
  if not members:
    return None
  _require_grain(first)
  return Trunk(members, _trunk_config(first, max(members.values()) + 1, period))


def _trunk_config(run: Resolved, event: int, period: int) -> dict[str, Any]:
  config = {key: value for key, value in run.config.items() if key != "max_num_checkpoints_to_keep"}
  # The trunk is shorter than its branches and must follow their learning rate.
  if config.get("learning_rate_schedule_steps", -1) == -1:
    config["learning_rate_schedule_steps"] = run.steps
  pruning = {"gmp_start_step": event, "gmp_end_step": event}
  return config | pruning | {"steps": event + 1, "checkpoint_period": period}


def _require_grain(run: Resolved) -> None:
  """Raises ConfigError if the run's checkpoints do not hold the position in the data."""
  if run.dataset_type != "grain":
    raise ConfigError(
      f"trunk=true: dataset_type={run.dataset_type} keeps no data position in its checkpoints, a branch would start the "
      "data anew; use dataset_type=grain or trunk: false"
    )


def _shared(config: Mapping[str, Any]) -> str:
  """A text that is equal for configs with the same dense steps: all keys but those of the schedule."""
  shared = {key: value for key, value in config.items() if key not in SCHEDULE_KEYS}
  return json.dumps(shared, sort_keys=True, default=str)
