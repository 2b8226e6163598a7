"""Times at the peak rates of a chip, computed by hand."""

import pytest

from maxtext_sparse.preflight.chips import Chip, CHIPS
from maxtext_sparse.preflight.collectives import Collective
from maxtext_sparse.preflight.roofline import Slice, time_of
from maxtext_sparse.preflight.tally import Operation
from maxtext_sparse.preflight.topologies import slice_of, topologies

# 100 FLOPs, 10 bytes of memory and 8 bytes of network a second; two axes with four links of 1 byte in each direction.
CHIP = Chip("test", 100.0, 1000, 10.0, 8.0, 2)
CLOSED = Slice(CHIP, 16, True)
OPEN = Slice(CHIP, 16, False)


def operation(flops=0.0, hbm_bytes=0, times=1, collective=None):
  return Operation("x", flops, hbm_bytes, hbm_bytes, 0, times, collective)


def test_an_operation_takes_the_longer_of_computing_and_moving():
  time = time_of([operation(200.0, 10), operation(100.0, 40, times=3)], CLOSED)
  assert (time.compute, time.memory, time.network) == (2 + 3, 1 + 12, 0)
  assert time.seconds == 2 + 12
  assert (time.best, time.worst) == (13, 18)


@pytest.mark.parametrize(
  ("kind", "group_size", "where", "seconds"),
  [
    ("all-gather", None, CLOSED, 150 / 4),  # 160 * 15 / 16 bytes over all links
    ("all-reduce", 16, CLOSED, 300 / 4),
    ("all-gather", None, OPEN, 150 / 2),
    ("all-gather", 4, CLOSED, 120 / 2),  # the links of one axis
    ("collective-permute", None, CLOSED, 160 / 1),
  ],
)
def test_a_collective_takes_what_it_sends_over_its_links(kind, group_size, where, seconds):
  time = time_of([operation(collective=Collective(kind, "", 160, "", group_size))], where)
  assert time.network == time.seconds == pytest.approx(seconds)


def test_bounds_enclose_the_estimate():
  time = time_of([operation(200.0, 10), operation(10.0, 40, collective=Collective("all-gather", "", 160, ""))], OPEN)
  assert time.best <= time.seconds <= time.worst


def test_every_topology_of_maxtext_has_a_chip():
  for name in topologies():
    where = slice_of(name)
    assert where.num_chips >= 1 and where.device.hbm_bytes > 2**33


@pytest.mark.parametrize(
  ("topology", "chips", "devices", "is_closed"),
  [("v5p-128", 64, 64, True), ("v5e-16", 16, 16, False), ("v5e-256", 256, 256, True), ("tpu7x-128", 64, 128, True)],
)
def test_a_topology_has_its_chips_and_rings(topology, chips, devices, is_closed):
  where = slice_of(topology)
  assert (where.num_chips, where.num_devices, where.is_closed) == (chips, devices, is_closed)


def test_a_tpu7x_device_is_half_a_chip():
  assert CHIPS["tpu7x"].device().peak_flops == CHIPS["tpu7x"].peak_flops / 2
  assert CHIPS["v5p"].device() == CHIPS["v5p"]
