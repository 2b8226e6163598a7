"""What a study costs on TPU chips, with its trunks and as if each run were trained alone."""

import dataclasses

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.preflight.estimate import DEFAULT_UTILISATION, estimate
from maxtext_sparse.preflight.pace import RunCost, total
from maxtext_sparse.preflight.roofline import Slice
from maxtext_sparse.preflight.topologies import check_topology, slice_of
from maxtext_sparse.sweeps.manifest import Manifest, Run


@dataclasses.dataclass(frozen=True)
class StudyCost:
  """The cost of all runs of a sweep.

  Attributes:
    topology: a name that MaxText knows; each run trains on one.
    utilisation: of the peak FLOPs, measured or assumed.
    alone: if no run shared its dense steps; hours are those of one run after the other.
    with_trunks: as the sweep trains them.
  """

  topology: str
  utilisation: float
  alone: RunCost
  with_trunks: RunCost


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
  cost = lambda run, steps: _cost(run, steps, where, utilisation, price)
  alone = [cost(run, run.steps) for run in manifest.runs if run.kind == "run"]
  shared = [cost(run, run.num_own_steps) for run in manifest.runs]
  return StudyCost(topology, utilisation or DEFAULT_UTILISATION, total(alone), total(shared))


def _cost(run: Run, steps: int, where: Slice, utilisation: float | None, price: float | None) -> RunCost:
  """All events of a branch come after its trunk."""
  pace = estimate(run.flops_per_token, run.batch_tokens, run.num_prunable, where, utilisation)
  return pace.cost(steps, run.num_events, price)
