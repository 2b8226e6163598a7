"""What a study costs on TPU chips, with its trunks and as if each run were trained alone."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.cost import training_flops
from maxtext_sparse.preflight.estimate import DEFAULT_UTILISATION, estimate
from maxtext_sparse.preflight.pace import RunCost, total
from maxtext_sparse.preflight.roofline import Slice
from maxtext_sparse.preflight.topologies import check_topology, slice_of
from maxtext_sparse.sweeps.manifest import Manifest, Run


@dataclasses.dataclass(frozen=True)
class StudyTotal:
  """What all runs of a sweep take.

  Attributes:
    cost: hours of one run after the other, chip-hours and dollars.
    effective_flops: 6 B sum_t N(t), those of the weights that are active.
    actual_flops: 6 N D, those that the hardware computes, since it multiplies the zeros too.
  """

  cost: RunCost
  effective_flops: float
  actual_flops: float

  def to_dict(self) -> dict[str, Any]:
    flops = {name: getattr(self, name) for name in ("effective_flops", "actual_flops")}
    return self.cost.to_dict() | flops


@dataclasses.dataclass(frozen=True)
class StudyCost:
  """The cost of all runs of a sweep.

  Attributes:
    topology: a name that MaxText knows; each run trains on one.
    utilisation: of the peak FLOPs, measured or assumed.
    alone: if no run shared its dense steps.
    with_trunks: as the sweep trains them.
  """

  topology: str
  utilisation: float
  alone: StudyTotal
  with_trunks: StudyTotal

  def to_dict(self) -> dict[str, Any]:
    totals = {name: getattr(self, name).to_dict() for name in ("alone", "with_trunks")}
    return {"topology": self.topology, "mfu": self.utilisation} | totals


def price_study(
  manifest: Manifest, num_devices: int, topology: str, utilisation: float | None, price: float | None
) -> StudyCost:
  """The cost of a sweep.

  Args:
    manifest: its runs.
    num_devices: `devices` of the sweep file, by which its batches were made.
    topology: a name that MaxText knows.
    utilisation: of the peak FLOPs; an assumption if None.
    price: dollars of a chip-hour, None if no price is wanted.

  Raises:
    ConfigError: MaxText does not know the topology, or it has another number of devices.
  """
  check_topology(topology)
  where = slice_of(topology)
  if where.num_devices != num_devices:
    raise ConfigError(
      f"--topology={topology}: has {where.num_devices} devices, the sweep file says devices: {num_devices}"
    )
  figures = lambda run, steps: _figures(run, steps, where, utilisation, price)
  alone = [figures(run, run.steps) for run in manifest.runs if run.kind == "run"]
  shared = [figures(run, run.num_own_steps) for run in manifest.runs]
  return StudyCost(topology, utilisation or DEFAULT_UTILISATION, _sum(alone), _sum(shared))


def _figures(run: Run, steps: int, where: Slice, utilisation: float | None, price: float | None) -> StudyTotal:
  """What the last steps of a run take. The steps before them are a trunk's: all are dense, and none has an event."""
  pace = estimate(run.flops_per_token, run.batch_tokens, run.num_prunable, where, utilisation)
  flops = lambda number: training_flops(run.num_prunable, number * run.batch_tokens)
  effective = run.effective_flops - flops(run.steps - steps)
  return StudyTotal(pace.cost(steps, run.num_events, price), effective, flops(steps))


def _sum(parts: Sequence[StudyTotal]) -> StudyTotal:
  flops = (sum(getattr(part, name) for part in parts) for name in ("effective_flops", "actual_flops"))
  return StudyTotal(total([part.cost for part in parts]), *flops)
