"""What one instruction moves between chips.

The compiler writes a collective in several ways: as an operation, as a pair of a start and an end, or inside of a fusion.
A fusion that adds an array up on all chips and keeps a slice of it is a reduce-scatter. One that is cut into a start,
parts beside other work and an end repeats its operation in each; the start counts.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import math
import re

from maxtext_sparse.preflight.hlo import Computation, Instruction, Program

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-broadcast", "collective-permute", "reduce-scatter")
_MESH = re.compile(r"replica_groups=mesh\[(?P<axes>[^\]]*)\] \{(?P<used>[^}]*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_LISTS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_AXIS = re.compile(r"'([^']+)'(?:=(\d+))?(?::\(\d+\)(\d+))?")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective.

  Attributes:
    kind: HLO opcode, without the suffix of its asynchronous form.
    arrays: types of its results, without layouts.
    num_bytes: size of its operands or of its results, whichever is larger, on each chip.
    op_name: where it comes from in the traced program.
    group_size: how many devices take part together; None for all of them.
  """

  kind: str
  arrays: str
  num_bytes: int
  op_name: str
  group_size: int | None = None

  def sent_bytes(self, num_devices: int) -> float:
    """Bytes that each device sends, and receives, on a ring of its group.

    With n devices and an array of V bytes: V (n - 1) / n to gather it or to scatter its sum, and both to add it up.
    """
    size = self.group_size or num_devices
    if self.kind in ("collective-permute", "collective-broadcast"):
      return float(self.num_bytes)
    share = self.num_bytes * (size - 1) / size
    return 2 * share if self.kind == "all-reduce" else share


def collective_of(program: Program, computation: Computation, instruction: Instruction) -> Collective | None:
  """The collective that begins with an instruction, None if there is none."""
  kind = instruction.opcode.removesuffix("-start")
  if kind in KINDS:
    return _described(computation, instruction, kind)
  if instruction.opcode not in ("fusion", "async-start"):
    return None
  inner = program.called(instruction)[0]
  found = [i for i in inner.instructions.values() if i.opcode in KINDS]
  if not found or (instruction.opcode == "fusion" and not _is_whole(inner)):
    return None
  is_scatter = found[0].opcode == "all-reduce" and inner.root.opcode == "dynamic-slice"
  return _described(inner, found[0], "reduce-scatter" if is_scatter else found[0].opcode)


def added(dense: Sequence[Collective], sparse: Sequence[Collective]) -> list[Collective]:
  """Returns those of `sparse` that have no counterpart of the same kind and arrays in `dense`."""
  left = Counter((collective.kind, collective.arrays) for collective in dense)
  extra = []
  for collective in sparse:
    key = collective.kind, collective.arrays
    left[key] -= 1
    if left[key] < 0:
      extra.append(collective)
  return extra


def _is_whole(fused: Computation) -> bool:
  """Whether a fusion is a collective by itself or its start, and not a later part of one."""
  targets = [i.attributes for i in fused.instructions.values() if i.opcode == "custom-call"]
  if any("AsyncCollectiveStart" in attributes for attributes in targets):
    return True
  return not any("AsyncCollective" in attributes for attributes in targets) and not _has_handles(fused)


def _has_handles(fused: Computation) -> bool:
  """Whether a fusion is given the handles of a collective that has begun; they lie in memory 2."""
  return any(array.memory == 2 for parameter in fused.parameters for array in parameter.arrays)


def _described(computation: Computation, instruction: Instruction, kind: str) -> Collective:
  operands = sum(operand.num_bytes for operand in computation.operands(instruction))
  results = instruction.num_bytes
  if instruction.opcode.endswith("-start") and kind != "all-reduce":
    results -= operands  # the results of an asynchronous start repeat its operands
  arrays = ", ".join(str(array) for array in instruction.arrays)
  return Collective(kind, arrays, max(operands, results), instruction.op_name, _group_size(instruction.attributes))


def _group_size(attributes: str) -> int | None:
  mesh = _MESH.search(attributes)
  if mesh:
    sizes = {name: int(size) for name, size, _ in _AXIS.findall(mesh["axes"])}
    return math.prod(int(part) if part else sizes[name] for name, _, part in _AXIS.findall(mesh["used"]))
  iota = _IOTA.search(attributes)
  if iota:
    return int(iota[2])
  lists = _LISTS.search(attributes)
  return len(lists[1].split(",")) if lists else None
