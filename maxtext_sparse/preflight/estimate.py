"""The pace of a run from its config alone, without compiling it.

A dense step takes its model FLOPs at a utilisation that was measured or assumed (MFU). What sparsity adds is reads of
the weights at HBM bandwidth, as often as `preflight` finds them in compiled programs: at most two in each step for the
gradient mask, and eleven at an event. Some programs come to fourteen there, which is too little to notice.

Example: 1.14e9 weights on 64 chips with 2.77e12 bytes a second are read in 1.14e9 x 4 / 64 / 2.77e12 s = 26 us. An event
takes 0.28 ms.
"""

from maxtext_sparse.preflight.pace import Pace
from maxtext_sparse.preflight.roofline import Slice
from maxtext_sparse.preflight.tally import PASSES

# MaxText publishes 35 to 65 % for the models of its documentation (docs, "Optimized models tiering", 2026).
DEFAULT_UTILISATION = 0.4
_MASK_READS = 2
_EVENT_READS = 1 + sum(PASSES.values())
_BYTES = 4


def estimate(
  flops_per_token: float, tokens_per_step: int, num_prunable: int, where: Slice, utilisation: float | None
) -> Pace:
  """The pace of a run.

  Args:
    flops_per_token: model FLOPs, by MaxText's formula.
    tokens_per_step: of all devices.
    num_prunable: weights that an event reads.
    where: the devices.
    utilisation: model FLOPs over peak FLOPs; `DEFAULT_UTILISATION` if None.
  """
  device = where.device
  flops = flops_per_token * tokens_per_step / where.num_devices
  dense = flops / ((utilisation or DEFAULT_UTILISATION) * device.peak_flops)
  read = num_prunable * _BYTES / where.num_devices / device.hbm_bandwidth
  return Pace(dense, _MASK_READS * read, _EVENT_READS * read, tokens_per_step, where.num_chips)
