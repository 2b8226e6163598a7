"""Hours and price of a planned run, phase by phase."""

import bisect
import dataclasses
import functools
from typing import Any

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.cost import RunPlan
from maxtext_sparse.plan.request import PlannedRun
from maxtext_sparse.preflight.estimate import DEFAULT_UTILISATION, estimate
from maxtext_sparse.preflight.pace import Pace, RunCost, total
from maxtext_sparse.preflight.topologies import check_topology, slice_of


@dataclasses.dataclass(frozen=True)
class PricedRun:
  """What a planned run costs on a topology.

  Attributes:
    topology: a name that MaxText knows.
    utilisation: of the peak FLOPs, measured or assumed.
    pace: how fast it trains.
    phases: name of each phase -> its cost.
  """

  topology: str
  utilisation: float
  pace: Pace
  phases: dict[str, RunCost]

  @property
  def cost(self) -> RunCost:
    return total(list(self.phases.values()))

  def to_dict(self) -> dict[str, Any]:
    phases = {name: cost.to_dict() for name, cost in self.phases.items()}
    whole = self.cost.to_dict() | {"phases": phases, "pace": dataclasses.asdict(self.pace)}
    return {"topology": self.topology, "mfu": self.utilisation, **whole}


def num_devices(topology: str, num_chips: int | None) -> int:
  """The jax devices of a topology.

  Raises:
    ConfigError: MaxText does not know it, or `--chips` is given beside it.
  """
  check_topology(topology)
  if num_chips is not None:
    raise ConfigError(f"--chips={num_chips}: {topology} has its own number of devices, leave the option out")
  return slice_of(topology).num_devices


def price_run(planned: PlannedRun, topology: str, utilisation: float | None, price: float | None) -> PricedRun:
  """Hours and price of a planned run.

  Args:
    planned: from a config, which gives the model and the batch.
    topology: a name that MaxText knows.
    utilisation: of the peak FLOPs; an assumption if None.
    price: dollars of a chip-hour, None if no price is wanted.

  Raises:
    ConfigError: the model or the batch is not known.
  """
  plan = planned.plan
  if planned.model is None or plan.num_prunable is None or plan.tokens_per_step is None:
    raise ConfigError(f"--topology={topology}: the time of a step needs the model and a constant batch, give a CONFIG")
  where = slice_of(topology)
  pace = estimate(planned.model.flops_per_token, plan.tokens_per_step, plan.num_prunable, where, utilisation)
  return PricedRun(topology, utilisation or DEFAULT_UTILISATION, pace, _phases(plan, pace, price))


def _phases(plan: RunPlan, pace: Pace, price: float | None) -> dict[str, RunCost]:
  before = functools.partial(bisect.bisect_left, plan.schedule.event_steps)
  return {
    phase.name: pace.cost(phase.num_steps, before(phase.stop) - before(phase.begin), price) for phase in plan.phases()
  }
