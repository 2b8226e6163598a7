"""Dense prefixes that runs share: which runs, how far, and what training them once saves.

A run is dense up to its first pruning event. Sparse runs that differ in their schedule alone are the same until the
first of them prunes. One trunk trains the longest prefix, keeps its checkpoints, and each run goes on from the last one
before its first event.

The trunk is a sparse run itself, with one event at its very last step, after the last checkpoint that a branch needs. A
dense run would not do, nor may one branch: XLA compiles it into another program, whose roundings differ in the last bit.
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
  """A shared prefix.

  Attributes:
    members: position of each branch among the runs -> the checkpoint that it starts from, the state after this step.
    config: MaxText keys, without a name.
  """

  members: dict[int, int]
  config: dict[str, Any]

  @property
  def steps(self) -> int:
    """One more than up to the last checkpoint that a branch needs, for the event."""
    return max(self.members.values()) + 2

  @property
  def num_saved(self) -> int:
    """Steps that are not trained twice."""
    return sum(step + 1 for step in self.members.values()) - self.steps


def find_trunks(runs: Sequence[Resolved], checkpoint_period: int | None) -> list[Trunk]:
  """The trunks that save steps, in the order of their first branches.

  Args:
    runs: all runs of the sweep.
    checkpoint_period: steps between a trunk's checkpoints, its runs' pruning frequency if None.

  Raises:
    ConfigError: a run's data cannot go on where the trunk's stopped.
  """
  groups: dict[str, list[int]] = {}
  for index, run in enumerate(runs):
    if run.schedule is not None and run.schedule.event_steps:  # `hold` prunes from the first step on
      groups.setdefault(_shared(run.config), []).append(index)
  found = [_trunk({index: runs[index] for index in group}, checkpoint_period) for group in groups.values()]
  return [trunk for trunk in found if trunk is not None and trunk.num_saved > 0]


def _trunk(group: Mapping[int, Resolved], checkpoint_period: int | None) -> Trunk | None:
  first = next(iter(group.values()))
  period = checkpoint_period or min(parse_keys(run.config).gmp_pruning_frequency for run in group.values())
  starts = {index: run.schedule.start for index, run in group.items() if run.schedule is not None}
  # An event acts in the update of its step: the checkpoint before is the last that all share.
  members = {index: (start - 1) // period * period for index, start in starts.items() if start > period}
  if not members:
    return None
  _require_grain(first)
  return Trunk(members, _trunk_config(first, max(members.values()) + 1, period))


def _trunk_config(run: Resolved, event: int, period: int) -> dict[str, Any]:
  config = {key: value for key, value in run.config.items() if key != "max_num_checkpoints_to_keep"}
  # The learning rate is that of the whole run.
  if config.get("learning_rate_schedule_steps", -1) == -1:
    config["learning_rate_schedule_steps"] = run.steps
  pruning = {"gmp_start_step": event, "gmp_end_step": event}
  return config | pruning | {"steps": event + 1, "checkpoint_period": period}


def _require_grain(run: Resolved) -> None:
  if run.dataset_type != "grain":
    raise ConfigError(
      f"trunk=true: dataset_type={run.dataset_type} keeps no data position in its checkpoints, a branch would start the "
      "data anew; use dataset_type=grain or trunk: false"
    )


def _shared(config: Mapping[str, Any]) -> str:
  """All that the dense prefix depends on."""
  shared = {key: value for key, value in config.items() if key not in SCHEDULE_KEYS}
  return json.dumps(shared, sort_keys=True, default=str)
