"""What the chips of each TPU generation can do, from public documentation.

| generation | source | date of the source |
|---|---|---|
| v4 | Cloud TPU documentation, page "TPU v4"; bandwidth of a link: "How to Scale Your Model", chapter 2 | read 2026-11 |
| v5e | Cloud TPU documentation, page "TPU v5e" | read 2026-11 |
| v5p, v6e, tpu7x | Compute Engine documentation, page on TPUs, table "TPU architecture specifications" | 2026-08-26 |
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """The peak figures of one chip.

  Attributes:
    generation: such as v5p.
    peak_flops: bfloat16 FLOPs a second.
    hbm_bytes: size of its main memory.
    hbm_bandwidth: bytes a second from and to that memory.
    ici_bandwidth: bytes a second that it sends to other chips of its slice and receives from them, both added.
    num_axes: dimensions of the torus that connects the chips.
    num_devices: jax devices of a chip.
  """

  generation: str
  peak_flops: float
  hbm_bytes: int
  hbm_bandwidth: float
  ici_bandwidth: float
  num_axes: int
  num_devices: int = 1

  def device(self) -> "Chip":
    """The part of the chip that one jax device is."""
    share = self.num_devices
    return Chip(
      self.generation,
      self.peak_flops / share,
      self.hbm_bytes // share,
      self.hbm_bandwidth / share,
      self.ici_bandwidth / share,
      self.num_axes,
    )


_GIB = 2**30

CHIPS = {
  chip.generation: chip
  for chip in (
    # Six links, each 45 GB/s in one direction.
    Chip("v4", 275e12, 32 * _GIB, 1200e9, 540e9, 3),
    Chip("v5e", 197e12, 16 * _GIB, 819e9, 400e9, 2),
    Chip("v5p", 459e12, 95 * _GIB, 2765e9, 1200e9, 3),
    Chip("v6e", 918e12, 32 * _GIB, 1638e9, 800e9, 2),
    # A chip is two devices.
    Chip("tpu7x", 2307e12, 192 * _GIB, 7380e9, 1200e9, 3, num_devices=2),
  )
}
