"""The TPU types that xpk 1.16 knows: FAMILY-CORES, such as v5p-128, or FAMILY-TOPOLOGY, such as v5p-4x4x4."""

from collections.abc import Iterator
import dataclasses
import functools
import itertools
import math
import re

from maxtext_sparse.errors import ConfigError, nearest

_FLAT = ("2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# 3D slices of fewer than 64 chips. All larger ones are made of cubes of 4x4x4 chips.
_BELOW_A_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_LONGEST_SIDE = 256


@dataclasses.dataclass(frozen=True)
class TpuFamily:
  """One TPU generation.

  Attributes:
    accelerator: its value of the node label `cloud.google.com/gke-tpu-accelerator`.
    cores_per_chip: TensorCores per chip; the number in a type counts TensorCores.
    topologies: the flat slices and those smaller than a cube of 64 chips.
    max_cubes: size of the largest 3D slice in cubes of 64 chips; 0 for families without 3D slices.
    is_ordered: whether 3D topologies list their sides from short to long only.
  """

  accelerator: str
  cores_per_chip: int
  topologies: tuple[str, ...]
  max_cubes: int = 0
  is_ordered: bool = True

  def all_topologies(self) -> Iterator[str]:
    """Yields every topology of the family, such as 4x8 or 4x4x8."""
    yield from self.topologies
    sides = range(1, min(self.max_cubes, _LONGEST_SIDE // 4) + 1)
    for cubes in itertools.product(sides, repeat=3):
      if math.prod(cubes) <= self.max_cubes and (not self.is_ordered or list(cubes) == sorted(cubes)):
        yield "x".join(str(4 * side) for side in cubes)


FAMILIES = {
  "v4": TpuFamily("tpu-v4-podslice", 2, _BELOW_A_CUBE, max_cubes=64, is_ordered=False),
  "v5litepod": TpuFamily("tpu-v5-lite-podslice", 1, _FLAT),
  "v5p": TpuFamily("tpu-v5p-slice", 2, _BELOW_A_CUBE, max_cubes=140),
  "v6e": TpuFamily("tpu-v6e-slice", 1, ("1x1", "2x2", *_FLAT)),
  "tpu7": TpuFamily("tpu7", 2, ("1x1x1", *_BELOW_A_CUBE), max_cubes=4),
  "tpu7x": TpuFamily("tpu7x", 2, ("1x1x1", *_BELOW_A_CUBE), max_cubes=144),
}

# The names that MaxText, Google Cloud and people use instead.
_OTHER_NAMES = {
  "v5e": "v5litepod",
  "v5lite": "v5litepod",
  "trillium": "v6e",
  "v7x": "tpu7x",
  "ironwood": "tpu7x",
}


@functools.cache
def tpu_types() -> dict[str, int]:
  """Maps every type to its number of chips; v5p-128 and v5p-4x4x4 both have 64."""
  types = {}
  for name, family in FAMILIES.items():
    for topology in family.all_topologies():
      chips = math.prod(map(int, topology.split("x")))
      types[f"{name}-{topology}"] = types[f"{name}-{chips * family.cores_per_chip}"] = chips
  return types


def check_tpu_type(tpu_type: str) -> None:
  """Raises ConfigError, with the nearest type, if xpk has no such type."""
  if tpu_type not in tpu_types():
    raise ConfigError(f"--tpu-type={tpu_type}: xpk has no such type, did you mean {nearest_type(tpu_type)}?")


def family_of(tpu_type: str) -> TpuFamily:
  """Returns the generation of a valid type."""
  return FAMILIES[tpu_type.partition("-")[0]]


def nearest_type(tpu_type: str) -> str:
  """Returns the type that was most likely meant: the right family first, then the nearest size by ratio."""
  family, size = _split(tpu_type.lower())
  if f"{family}-{size}" in tpu_types():
    return f"{family}-{size}"
  is_topology = "x" in size
  # v5p-4x4 has 16 chips, as v5p-2x2x4 does. v5p-100 means TensorCores, of which v5p-128 has the nearest number.
  wanted = math.prod(int(side) for side in re.findall(r"\d+", size) if int(side)) if size else 1
  chips = {other.partition("-")[2]: count for other, count in tpu_types().items() if other.startswith(f"{family}-")}
  numbers = {other: chips[other] if is_topology else int(other) for other in chips if ("x" in other) == is_topology}
  return f"{family}-{min(numbers, key=lambda other: abs(math.log(numbers[other] / wanted)))}"


def _split(tpu_type: str) -> tuple[str, str]:
  """Splits a type into family and size. The type may lack the hyphen or use another name of the family."""
  known = _OTHER_NAMES | {name: name for name in FAMILIES}
  for name in sorted(known, key=len, reverse=True):
    if tpu_type.startswith(name):
      return known[name], tpu_type.removeprefix(name).strip("-_ ")
  name, _, size = tpu_type.partition("-")
  return nearest(name, FAMILIES, cutoff=0.5) or "v5litepod", size
