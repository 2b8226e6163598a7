"""Dense prefixes that runs share: which runs, how far, and what training them once saves.

A run is dense up to its first pruning event. Runs that differ in their pruning alone are the same until the first of
them prunes; the dense runs among them even to the end. One trunk trains the longest prefix, keeps its checkpoints, and
each run goes on from the last one before its first event.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from maxtext_sparse.config import KEYS, parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.sweeps.resolve import Resolved


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
    """The last checkpoint that a branch needs is the state after step `steps - 1`."""
    return max(self.members.values()) + 1

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
    if run.schedule is None or run.schedule.event_steps:  # `hold` prunes from the first step on
      groups.setdefault(_shared(run.config), []).append(index)
  found = [_trunk({index: runs[index] for index in group}, checkpoint_period) for group in groups.values()]
  return [trunk for trunk in found if trunk is not None and trunk.num_saved > 0]


def _trunk(group: Mapping[int, Resolved], checkpoint_period: int | None) -> Trunk | None:
  first = next(iter(group.values()))
  starts = {index: run.schedule.start for index, run in group.items() if run.schedule is not None}
  period = checkpoint_period or min((parse_keys(group[i].config).gmp_pruning_frequency for i in starts), default=1)
  # An event acts in the update of its step: the checkpoint before is the last that all share.
  last = {index: (start - 1) // period * period for index, start in starts.items() if start > period}
  if not last:
    return None
  _require_grain(first)
  dense = {index: max(last.values()) for index in group if index not in starts}
  members = dict(sorted((last | dense).items()))
  return Trunk(members, _trunk_config(first, max(last.values()) + 1, period))


def _trunk_config(run: Resolved, steps: int, period: int) -> dict[str, Any]:
  config = {key: value for key, value in run.config.items() if key not in KEYS and key != "max_num_checkpoints_to_keep"}
  # The learning rate is that of the whole run.
  if config.get("learning_rate_schedule_steps", -1) == -1:
    config["learning_rate_schedule_steps"] = run.steps
  return config | {"steps": steps, "checkpoint_period": period}


def _require_grain(run: Resolved) -> None:
  if run.dataset_type != "grain":
    raise ConfigError(
      f"trunk=true: dataset_type={run.dataset_type} keeps no data position in its checkpoints, a branch would start the "
      "data anew; use dataset_type=grain or trunk: false"
    )


def _shared(config: Mapping[str, Any]) -> str:
  """All that the dense prefix depends on."""
  return json.dumps({key: value for key, value in config.items() if key not in KEYS}, sort_keys=True, default=str)
