"""The text of a compiled program as data: computations, instructions and the types of their arrays.

XLA prints a program as computations, one of them the entry. A line of a computation is an instruction:

  %dot.3 = f32[8,16]{1,0:T(8,128)S(1)} dot(%x, %w), lhs_contracting_dims={1}, metadata={op_name="jit(step)/dot"}

with a name, the type of the result, an operation, operands and attributes. `S(1)` says that the array lies in a memory of
the core and not in HBM. A loop, a branch and a fusion name the computations that they run as attributes.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re

# The name and the type of a result, which is a tuple or one array, and the operation; its operands follow.
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.-]+) = (?P<rest>.*)$")
_OPERATION = re.compile(r" (?P<opcode>[a-z][a-z0-9-]*)\(")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
_ARRAY = re.compile(r"\b(?P<dtype>pred|[a-z]+\d+\w*)\[(?P<shape>[\d,]*)\](?:\{(?P<layout>[^}]*)\})?")
_MEMORY = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Array:
  """The type of one array.

  Attributes:
    dtype: such as f32, bf16 or pred.
    shape: its sizes on one device.
    memory: 0 for the main memory, HBM; another number for a memory of the core.
  """

  dtype: str
  shape: tuple[int, ...]
  memory: int = 0

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def num_bytes(self) -> int:
    """Rounded down at the end: u4[3] is 1 byte. A pred takes a byte."""
    width = re.search(r"\d+", self.dtype)
    return self.size * (int(width[0]) if width else 8) // 8

  def __str__(self) -> str:
    return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction.

  Attributes:
    name: unique in its computation.
    opcode: what it does.
    arrays: the type of its result; of a tuple, all arrays in it.
    operands: names of the instructions that it reads; for a constant, its value.
    attributes: the text behind the operands.
    is_root: whether it is the result of its computation.
  """

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  attributes: str
  is_root: bool = False

  @property
  def op_name(self) -> str:
    """Where it comes from in the traced program."""
    found = _OP_NAME.search(self.attributes)
    return found[1] if found else ""

  @property
  def num_bytes(self) -> int:
    return sum(array.num_bytes for array in self.arrays)

  def attribute(self, name: str) -> str | None:
    """The value of an attribute up to the next comma outside of braces; None if it has none."""
    found = re.search(rf"\b{name}=(\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}}|[^,\s]+)", self.attributes)
    return found[1] if found else None

  @functools.cached_property
  def called(self) -> tuple[str, ...]:
    """Names of the computations that it runs, in the order of the text."""
    return tuple(name for names in _CALLED.findall(self.attributes) for name in re.findall(r"[\w.-]+", names))


@dataclasses.dataclass(frozen=True)
class Computation:
  """A list of instructions by name, in the order of the text."""

  name: str
  instructions: dict[str, Instruction]

  @functools.cached_property
  def root(self) -> Instruction:
    return next(i for i in reversed(self.instructions.values()) if i.is_root)

  @functools.cached_property
  def parameters(self) -> tuple[Instruction, ...]:
    """In the order of their numbers, which is that of the operands of the caller."""
    found = [i for i in self.instructions.values() if i.opcode == "parameter"]
    return tuple(sorted(found, key=lambda parameter: int(parameter.operands[0])))

  @functools.cached_property
  def users(self) -> dict[str, list[Instruction]]:
    """By name of an instruction, those that read it."""
    found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
    for instruction in self.instructions.values():
      for operand in dict.fromkeys(instruction.operands):
        if operand in found:
          found[operand].append(instruction)
    return found

  def operands(self, instruction: Instruction) -> list[Instruction]:
    """The instructions that an instruction reads."""
    return [self.instructions[name] for name in instruction.operands if name in self.instructions]


@dataclasses.dataclass(frozen=True)
class Program:
  """The computations of a compiled program by name, and the name of the one that it begins with."""

  computations: dict[str, Computation]
  entry_name: str

  @property
  def entry(self) -> Computation:
    return self.computations[self.entry_name]

  def called(self, instruction: Instruction) -> list[Computation]:
    """The computations that an instruction runs."""
    return [self.computations[name] for name in instruction.called if name in self.computations]


def parse(text: str) -> Program:
  """Reads what `as_text` of a compiled program returns."""
  computations: dict[str, Computation] = {}
  entry = ""
  for head, lines in _blocks(text):
    match = _COMPUTATION.match(head)
    assert match
    found = [_instruction(line) for line in lines]
    computations[match["name"]] = Computation(match["name"], {i.name: i for i in found if i})
    entry = match["name"] if match["entry"] else entry
  assert entry, "a program without an entry"
  return Program(computations, entry)


def arrays_of(hlo_type: str) -> tuple[Array, ...]:
  """All arrays of a type: of `(f32[2]{0}, s32[])` two."""
  return tuple(_arrays(hlo_type))


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
  """First line and instructions of each computation. Attributes of kernels may go on over several lines."""
  head = ""
  lines: list[str] = []
  for line in text.splitlines():
    if _COMPUTATION.match(line):
      head, lines = line, []
    elif line == "}":
      if head:
        yield head, lines
      head = ""
    elif _INSTRUCTION.match(line):
      lines.append(line)
    elif head and lines:
      lines[-1] += line


def _arrays(hlo_type: str) -> Iterator[Array]:
  for found in _ARRAY.finditer(hlo_type):
    memory = _MEMORY.search(found["layout"] or "")
    shape = tuple(int(size) for size in found["shape"].split(",") if size)
    yield Array(found["dtype"], shape, int(memory[1]) if memory else 0)


def _instruction(line: str) -> Instruction | None:
  match = _INSTRUCTION.match(line)
  if not match:
    return None
  rest = match["rest"]
  # The type of a tuple has parentheses of its own; the operation comes behind them.
  type_end = _closing(rest, 0) + 1 if rest.startswith("(") else 0
  operation = _OPERATION.search(rest, type_end)
  if not operation:
    return None
  begin, end = operation.end(), _closing(rest, operation.end() - 1)
  inside = rest[begin:end]
  opcode = operation["opcode"]
  operands = (inside,) if opcode in ("parameter", "constant") else tuple(_NAME.findall(inside))
  arrays = arrays_of(rest[: operation.start()])
  return Instruction(match["name"], opcode, arrays, operands, rest[end + 1 :], bool(match["root"]))


def _closing(text: str, opening: int) -> int:
  """The index of the parenthesis that closes the one at `opening`."""
  depth = 0
  for found in re.compile(r"[()]").finditer(text, opening):
    depth += 1 if found[0] == "(" else -1
    if depth == 0:
      return found.start()
  return len(text)
