"""The work of a whole program: FLOPs, bytes and collectives of every instruction times how often it runs.

A loop multiplies the work of its body by its trips, also within other loops. Of a branch that is not the pruning event's,
the costlier side counts. The event is told apart by the names that `pruning` gives to its operations:

  pruning_event   the branch that a step with an event takes; its work is kept by itself
  score_passes    the loop that searches the cut by counting weights, one read of all weights in each pass
  tie_passes      the loop that decides between equal weights; it too reads all weights
  gradient_mask   what reads the weights in every step to mask their gradients

How many passes a search takes is not in the program, because it depends on the weights. `PASSES` says what we count.
"""

from collections.abc import Iterator
import dataclasses

from maxtext_sparse.preflight.collectives import Collective, collective_of
from maxtext_sparse.preflight.flops import flops
from maxtext_sparse.preflight.hlo import Computation, Instruction, Program
from maxtext_sparse.preflight.traffic import bytes_of_scope, moved_bytes
from maxtext_sparse.preflight.trips import trip_count

EVENT, MASK = "pruning_event", "gradient_mask"
# For weights as they are trained: 7 to 9 for the cut, and up to 5 among equal weights; see tests/pruning/test_search.py.
PASSES = {"score_passes": 8, "tie_passes": 2}


@dataclasses.dataclass(frozen=True)
class Operation:
  """An instruction that takes time.

  Attributes:
    name: of the instruction.
    flops: those of one run.
    accessed_bytes: read and written in one run, in any memory.
    hbm_bytes: from and to HBM in one run, transfers into the memory of the core included.
    mask_bytes: of those accessed, what only the gradient mask needs.
    times: how often it runs in a step.
    collective: what it moves between chips.
  """

  name: str
  flops: float
  accessed_bytes: int
  hbm_bytes: int
  mask_bytes: int
  times: int
  collective: Collective | None = None


@dataclasses.dataclass(frozen=True)
class Work:
  """All work of a step.

  Attributes:
    step: its operations.
    event: those that a step with a pruning event runs beyond them.
    unknown_loops: names of loops whose trips the program does not show; their bodies count once.
  """

  step: tuple[Operation, ...] = ()
  event: tuple[Operation, ...] = ()
  unknown_loops: tuple[str, ...] = ()


def work_of(program: Program) -> Work:
  """All work of one step, and of one event."""
  walk = _Walk(program)
  step = tuple(walk.operations(program.entry, 1))
  event = tuple(operation for branch, times in walk.events for operation in walk.operations(branch, times))
  return Work(step, event, tuple(walk.unknown))


class _Walk:
  """Follows the computations of a program."""

  def __init__(self, program: Program):
    self._program = program
    # Branches of events with how often they would run, found on the way.
    self.events: list[tuple[Computation, int]] = []
    self.unknown: list[str] = []

  def operations(self, computation: Computation, times: int) -> Iterator[Operation]:
    """The operations of a computation that runs `times` times."""
    for instruction in computation.instructions.values():
      if instruction.opcode == "while":
        yield from self._loop(computation, instruction, times)
      elif instruction.opcode == "conditional":
        yield from self._branches(instruction, times)
      elif instruction.opcode == "call":
        for called in self._program.called(instruction):
          yield from self.operations(called, times)
      else:
        yield from self._single(computation, instruction, times)

  def _single(self, computation: Computation, instruction: Instruction, times: int) -> Iterator[Operation]:
    accessed = moved_bytes(self._program, computation, instruction, hbm_only=False)
    hbm_bytes = moved_bytes(self._program, computation, instruction, hbm_only=True)
    num_flops = self._flops(computation, instruction)
    collective = collective_of(self._program, computation, instruction)
    if accessed or hbm_bytes or num_flops or collective:
      mask_bytes = bytes_of_scope(self._program, computation, instruction, MASK)
      yield Operation(instruction.name, num_flops, accessed, hbm_bytes, mask_bytes, times, collective)

  def _flops(self, computation: Computation, instruction: Instruction) -> float:
    inner = self._program.called(instruction) if instruction.opcode in ("fusion", "async-start") else []
    nested = sum(self._flops(fused, i) for fused in inner for i in fused.instructions.values())
    return nested + flops(computation, instruction)

  def _loop(self, computation: Computation, loop: Instruction, times: int) -> Iterator[Operation]:
    trips = trip_count(self._program, computation, loop)
    if trips is None:
      passes = [number for scope, number in PASSES.items() if f"/{scope}/" in loop.op_name]
      trips = passes[0] if passes else 1
      self.unknown += [] if passes else [loop.name]
    for part in ("condition", "body"):
      name = loop.attribute(part)
      assert name
      yield from self.operations(self._program.computations[name.lstrip("%")], times * trips)

  def _branches(self, branch: Instruction, times: int) -> Iterator[Operation]:
    sides = sorted(self._program.called(branch), key=self._weight)
    if branch.op_name.endswith(f"/{EVENT}/cond"):
      self.events.append((sides[-1], times))
      sides = sides[:1]
    yield from self.operations(sides[-1], times)

  def _weight(self, computation: Computation) -> float:
    """Orders the sides of a branch by what they cost."""
    walk = _Walk(self._program)
    return sum((o.flops + o.accessed_bytes) * o.times for o in walk.operations(computation, 1))
