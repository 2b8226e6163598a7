"""Reads from a compiled program's HLO text what it moves between devices."""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import math
import re

# `%name = TYPE opcode(operands), attributes`, where TYPE may be a tuple with layouts and comments.
_INSTRUCTION = re.compile(
  r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<type>.*?) (?P<opcode>[a-z][a-z0-9-]*)\((?P<operands>[^)]*)\)"
)
_ARRAY = re.compile(r"\b(?P<dtype>pred|[a-z]+\d+\w*)\[(?P<shape>[\d,]*)\]")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-broadcast", "collective-permute", "reduce-scatter")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective in the program's text. A collective in the body of a loop counts once.

  Attributes:
    kind: HLO opcode, without the suffix of its asynchronous form.
    arrays: types of its operands and results, without layouts.
    num_bytes: size of its operands or of its results, whichever is larger, on each chip.
    op_name: where it comes from in the traced program.
  """

  kind: str
  arrays: str
  num_bytes: int
  op_name: str


def collectives(text: str) -> list[Collective]:
  """Returns all collectives of an HLO module's text in its order. An asynchronous pair counts once, at its start."""
  sizes: dict[str, int] = {}
  found = []
  for line in text.splitlines():
    match = _INSTRUCTION.match(line)
    if not match:
      continue
    sizes[match["name"]] = _num_bytes(match["type"])
    if match["opcode"].removesuffix("-start") in KINDS:
      found.append(_read_collective(match, sizes, line))
  return found


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


def _read_collective(match: re.Match[str], sizes: dict[str, int], line: str) -> Collective:
  operands = sum(sizes.get(operand.strip().split(" ")[-1].lstrip("%"), 0) for operand in match["operands"].split(","))
  results = sizes[match["name"]]
  kind = match["opcode"].removesuffix("-start")
  if kind != match["opcode"] and kind != "all-reduce":
    results -= operands  # the results of an asynchronous start repeat its operands
  op_name = _OP_NAME.search(line)
  arrays = ", ".join(array[0] for array in _ARRAY.finditer(match["type"]))
  return Collective(kind, arrays, max(operands, results), op_name[1] if op_name else "")


def _num_bytes(hlo_type: str) -> int:
  """Size of all arrays of a type, rounded down to bytes at the end: u4[3] is 1 byte."""
  bits = 0
  for array in _ARRAY.finditer(hlo_type):
    width = re.search(r"\d+", array["dtype"])
    bits += math.prod(int(size) for size in array["shape"].split(",") if size) * (int(width[0]) if width else 8)
  return bits // 8
