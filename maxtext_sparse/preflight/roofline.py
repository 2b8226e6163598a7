"""How long operations take at the peak rates of a chip.

An operation computes and moves bytes at the same time, so it takes the longer of both:

  seconds = max(FLOPs / peak FLOPs a second, bytes / HBM bandwidth)

A collective takes the bytes that each device sends, over the bandwidth in one direction. A ring of all devices of a slice
uses the links of all axes of the torus, a smaller group those of one axis, and a permutation one link. Where a slice is
too small to close its rings, half of the links' bandwidth is left.

The sum over all operations is the estimate. Two bounds enclose it: `best`, if computing, memory and network overlap
perfectly, and `worst`, if nothing overlaps. No program reaches peak rates, so a measured step takes longer; `--mfu`
scales the estimate to a measured utilisation.
"""

from collections.abc import Iterable
import dataclasses

from maxtext_sparse.preflight.chips import Chip
from maxtext_sparse.preflight.collectives import Collective
from maxtext_sparse.preflight.tally import Operation


@dataclasses.dataclass(frozen=True)
class Slice:
  """The devices that a program runs on.

  Attributes:
    chip: what one chip can do.
    num_devices: jax devices, of all slices together.
    is_closed: whether the torus has its wrap-around links.
  """

  chip: Chip
  num_devices: int
  is_closed: bool

  @property
  def device(self) -> Chip:
    """The part of a chip that one jax device is."""
    return self.chip.device()

  @property
  def num_chips(self) -> int:
    return self.num_devices // self.chip.num_devices

  def network_seconds(self, collective: Collective) -> float:
    """Time of a collective at the bandwidth of the links between chips."""
    one_way = self.device.ici_bandwidth / 2
    if collective.kind == "collective-permute":
      bandwidth = one_way / (2 * self.device.num_axes)
    else:
      is_whole = collective.group_size in (None, self.num_devices)
      axes = self.device.num_axes if is_whole else 1
      bandwidth = one_way * axes / self.device.num_axes * (1.0 if self.is_closed else 0.5)
    return collective.sent_bytes(self.num_devices) / bandwidth


@dataclasses.dataclass(frozen=True)
class StepTime:
  """Seconds of some operations.

  Attributes:
    compute, memory, network: as if each were alone.
    seconds: the estimate: the longer of compute and memory for each operation, and the network after it.
  """

  compute: float = 0.0
  memory: float = 0.0
  network: float = 0.0
  seconds: float = 0.0

  @property
  def best(self) -> float:
    """If everything overlaps."""
    return max(self.compute, self.memory, self.network)

  @property
  def worst(self) -> float:
    """If nothing overlaps."""
    return self.compute + self.memory + self.network

  def to_dict(self) -> dict[str, float]:
    return dataclasses.asdict(self) | {"best": self.best, "worst": self.worst}


def time_of(operations: Iterable[Operation], where: Slice) -> StepTime:
  """The time of operations one after the other."""
  compute = memory = network = seconds = 0.0
  for operation in operations:
    computing = operation.flops / where.device.peak_flops * operation.times
    moving = operation.hbm_bytes / where.device.hbm_bandwidth * operation.times
    sending = where.network_seconds(operation.collective) * operation.times if operation.collective else 0.0
    compute, memory, network = compute + computing, memory + moving, network + sending
    seconds += max(computing, moving) + sending
  return StepTime(compute, memory, network, seconds)
