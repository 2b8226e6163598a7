"""How often the body of a loop runs.

The CPU compiler writes `known_trip_count` beside a loop. The TPU compiler does not, but a loop over layers still shows
its count: in `for i in range(6)` the condition is `i < 6`, the loop begins with the constant 0, and its body adds 1.
These are read from the program, through copies, fusions and conversions. A loop that ends when a search has found what
it looks for has no such count.
"""

from collections.abc import Sequence
import re

from maxtext_sparse.preflight.hlo import Computation, Instruction, Program

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Operations that hand on a scalar as it is.
_TRANSPARENT = ("copy", "convert", "bitcast", "reshape", "copy-done", "copy-start")
# For `i < limit` and so on: what is added to limit - start before it is divided by the step, and rounded up.
_DIRECTIONS = {"LT": 0, "GT": 0, "LE": 1, "GE": 1, "NE": 0}


def trip_count(program: Program, caller: Computation, loop: Instruction) -> int | None:
  """How often the body runs; None if the program does not say so.

  Args:
    program: the program.
    caller: the computation that the loop stands in.
    loop: a `while` instruction.
  """
  known = _KNOWN.search(loop.attributes)
  if known:
    return int(known[1])
  condition, body = (program.computations[_name(loop, part)] for part in ("condition", "body"))
  compare = _compare(program, condition)
  if compare is None:
    return None
  direction, index, bound = compare
  start, step = _entry_constant(caller, loop, index), _step(body, index)
  limit: int | None
  if isinstance(bound, tuple):  # the limit is an entry of the loop's tuple, which the body must not change
    limit = _entry_constant(caller, loop, bound[0]) if _is_kept(body, bound[0]) else None
  else:
    limit = bound
  if start is None or limit is None or not step:
    return None
  distance = (limit - start) * (1 if step > 0 else -1) + _DIRECTIONS[direction]
  return max(0, -(-distance // abs(step)))


def _compare(program: Program, condition: Computation) -> tuple[str, int, int | tuple[int]] | None:
  """Direction, index of the counter, and limit of a condition `counter < limit`; a limit in the tuple is (its index,)."""
  root = condition.root
  sources: Sequence[Instruction | None] = [_source(condition, name) for name in root.operands]
  attributes = root.attributes
  if root.opcode == "fusion":
    inner = program.called(root)[0]
    if inner.root.opcode != "compare":
      return None
    attributes = inner.root.attributes
    ends = [_source(inner, name) for name in inner.root.operands]
    # A parameter of the fusion stands for the operand of the same number.
    sources = [sources[int(end.operands[0])] if end and end.opcode == "parameter" else end for end in ends]
  elif root.opcode != "compare":
    return None
  direction = re.search(r"direction=(\w\w)", attributes)
  counter, limit = sources if len(sources) == 2 else (None, None)
  index, value = _tuple_index(counter), _constant(limit)
  if not direction or direction[1] not in _DIRECTIONS or index is None:
    return None
  if value is not None:
    return direction[1], index, value
  other = _tuple_index(limit)
  return None if other is None else (direction[1], index, (other,))


def _step(body: Computation, index: int) -> int | None:
  """What the body adds to an entry of its tuple."""
  result = _source(body, body.root.operands[index]) if body.root.opcode == "tuple" else None
  if result is None or result.opcode not in ("add", "subtract") or len(result.operands) != 2:
    return None
  left, right = (_source(body, name) for name in result.operands)
  if result.opcode == "add" and _tuple_index(right) == index:
    left, right = right, left
  step = _constant(right) if _tuple_index(left) == index else None
  return step if step is None or result.opcode == "add" else -step


def _is_kept(body: Computation, index: int) -> bool:
  """Whether the body hands an entry of its tuple on as it is."""
  return body.root.opcode == "tuple" and _tuple_index(_source(body, body.root.operands[index])) == index


def _entry_constant(caller: Computation, loop: Instruction, index: int) -> int | None:
  """The value of an entry of the tuple that the loop begins with."""
  begin = _source(caller, loop.operands[0])
  if begin is None or begin.opcode != "tuple":
    return None
  return _constant(_source(caller, begin.operands[index]))


def _source(computation: Computation, name: str) -> Instruction | None:
  """The instruction that a value comes from, through copies and conversions."""
  found = computation.instructions.get(name)
  while found is not None and found.opcode in _TRANSPARENT and found.operands:
    found = computation.instructions.get(found.operands[0])
  return found


def _constant(instruction: Instruction | None) -> int | None:
  if instruction is None or instruction.opcode != "constant":
    return None
  value = instruction.operands[0].strip("{} ")
  return int(value) if re.fullmatch(r"-?\d+", value) else None


def _tuple_index(instruction: Instruction | None) -> int | None:
  """Which entry of the tuple of a loop an instruction reads."""
  if instruction is None or instruction.opcode != "get-tuple-element":
    return None
  return int(instruction.attribute("index") or 0)


def _name(loop: Instruction, part: str) -> str:
  name = loop.attribute(part)
  assert name, f"a loop without a {part}"
  return name.lstrip("%")
