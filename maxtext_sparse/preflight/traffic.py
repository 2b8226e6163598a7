"""Bytes that one instruction reads and writes.

An instruction reads its operands and writes its result; within a fusion nothing is stored. Of a stacked array, only what
is used counts: the slice of one layer that is read, and the slice that is written in place. Operations that only give
another name to an array move nothing.

The same function counts two figures. *Accessed* are the bytes in any memory. A copy from HBM into the memory of the core
does not count there, since what uses the copy does. *HBM bytes* are those from and to the main memory of the chip, whose
bandwidth limits a step; arrays that the compiler keeps in the memory of the core are left out.
"""

from collections.abc import Iterable, Sequence

from maxtext_sparse.preflight.hlo import Array, Computation, Instruction, Program

_NAMES_ONLY = frozenset(
  (
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "opt-barrier", "add-dependency", "domain"),
    *("while", "conditional", "call", "async-start", "async-update", "after-all", "partition-id", "replica-id", "iota"),
  )
)
# Calls that only reserve memory, state a fact, or join pieces that lie side by side.
_FREE_CALLS = ("AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast")
# Operations that read only as much of their first operand as they return.
_SLICES = ("dynamic-slice", "slice", "gather")
# Operations that change a part of their first operand in place; the part is the operand of this number.
_UPDATES = {"dynamic-update-slice": 1, "scatter": -1}
# These give an array another name or shape.
_SAME = ("bitcast", "reshape")


def moved_bytes(program: Program, computation: Computation, instruction: Instruction, *, hbm_only: bool) -> int:
  """Bytes that an instruction reads and writes, without those of the computations that a loop, branch or call runs.

  Args:
    program: the program.
    computation: the one that the instruction stands in.
    instruction: any instruction.
    hbm_only: whether only bytes from and to HBM count.
  """
  opcode = instruction.opcode
  if opcode in _NAMES_ONLY or opcode.endswith("-done") or _is_free_call(instruction):
    return 0
  operands = computation.operands(instruction)
  if not hbm_only and _is_transfer(operands, instruction):
    return 0

  def count(arrays: Iterable[Array]) -> int:
    return sum(array.num_bytes for array in arrays if array.memory == 0 or not hbm_only)

  def resized(arrays: Iterable[Array], num_bytes: int) -> int:
    return num_bytes if count(arrays) else 0

  if opcode == "slice-start":
    # The result is a tuple of the whole operand, the slice and a handle.
    whole, part = instruction.arrays[:2]
    return resized([whole], part.num_bytes) + count([part])
  if opcode.endswith("-start"):
    # The result is a tuple of what is read, what is written, and handles.
    return count(instruction.arrays)
  if opcode in _SLICES:
    return resized(operands[0].arrays, instruction.num_bytes) + count(instruction.arrays)
  if opcode in _UPDATES:
    return resized(operands[0].arrays, 2 * operands[_UPDATES[opcode]].num_bytes)
  if opcode == "fusion":
    fused = program.called(instruction)[0]
    reads = zip(operands, reads_of_fusion(program, fused))
    written = zip(instruction.arrays, _writes_of_fusion(fused, instruction))
    return sum(resized(o.arrays, n) for o, n in reads) + sum(resized([array], n) for array, n in written)
  return sum(count(operand.arrays) for operand in operands) + count(instruction.arrays)


def bytes_of_scope(program: Program, computation: Computation, instruction: Instruction, scope: str) -> int:
  """Bytes, in any memory, that an instruction moves only for operations of a scope of the traced program.

  In a fusion these are the operands that no other operation reads, and the bools that the scope hands on. What a `select`
  of the scope hands on would be read without it too.
  """
  if instruction.opcode != "fusion":
    is_inside = scope in instruction.op_name
    return moved_bytes(program, computation, instruction, hbm_only=False) if is_inside else 0
  fused = program.called(instruction)[0]
  found = 0
  for parameter in fused.parameters:
    users = fused.users[parameter.name]
    if users and all(_decides(user, parameter, scope) for user in users):
      found += _used(program, fused, parameter)
  roots = fused.operands(fused.root) if fused.root.opcode == "tuple" else [fused.root]
  for root, array in zip(roots, instruction.arrays):
    if array.dtype == "pred" and scope in root.op_name:
      found += array.num_bytes
  return found


def _decides(user: Instruction, value: Instruction, scope: str) -> bool:
  is_handed_on = user.opcode == "select" and value.name in user.operands[1:]
  return scope in user.op_name and not is_handed_on


def reads_of_fusion(program: Program, fused: Computation) -> list[int]:
  """Bytes that a fusion reads of each operand."""
  return [_used(program, fused, parameter) for parameter in fused.parameters]


def _used(program: Program, fused: Computation, value: Instruction) -> int:
  """Bytes of a value inside a fusion that its users need: slices where all of them slice, or else all of it."""
  needed = 0
  for user in fused.users[value.name]:
    is_first = user.operands[0] == value.name
    if user.opcode in _SLICES and is_first:
      needed += user.num_bytes
    elif user.opcode in _UPDATES and is_first:
      continue  # the rest stays where it is
    elif user.opcode == "bitcast":
      needed += _used(program, fused, user)
    elif user.opcode == "fusion":
      inner = program.called(user)[0]
      parameters = [p for p, name in zip(inner.parameters, user.operands) if name == value.name]
      needed += sum(_used(program, inner, parameter) for parameter in parameters)
    else:
      return value.num_bytes
  return min(needed, value.num_bytes)


def _writes_of_fusion(fused: Computation, fusion: Instruction) -> Sequence[int]:
  """Bytes that a fusion writes of each of its results."""
  roots = fused.operands(fused.root) if fused.root.opcode == "tuple" else [fused.root]
  if len(roots) != len(fusion.arrays):  # a tuple in a tuple, as asynchronous collectives return
    return [array.num_bytes for array in fusion.arrays]
  return [_written(fused, root) for root in roots]


def _written(fused: Computation, root: Instruction) -> int:
  """Bytes of a result, or of the slice of it that is written."""
  value = root
  while value.opcode in _SAME and value.operands[0] in fused.instructions:
    value = fused.instructions[value.operands[0]]
  if value.opcode in _UPDATES:
    return fused.operands(value)[_UPDATES[value.opcode]].num_bytes
  return root.num_bytes


def _is_transfer(operands: Sequence[Instruction], instruction: Instruction) -> bool:
  """Whether an instruction copies an array, or a slice of it, from one memory to another."""
  if instruction.opcode in ("copy", "slice"):
    return operands[0].arrays[0].memory != instruction.arrays[0].memory
  # The result begins with both arrays.
  return (
    instruction.opcode in ("copy-start", "slice-start") and instruction.arrays[0].memory != instruction.arrays[1].memory
  )


def _is_free_call(instruction: Instruction) -> bool:
  return instruction.opcode == "custom-call" and any(name in instruction.attributes for name in _FREE_CALLS)
