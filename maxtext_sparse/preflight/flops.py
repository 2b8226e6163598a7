"""Floating-point operations of one instruction: those of matrix products, which the peak of a chip is stated for.

A product of [m, k] with [k, n] takes 2 m k n: a multiplication and an addition each. The TPU compiler writes products as
convolutions, whose windows stand for batch dimensions too. Positions of a window outside of the input, in the padding or
between its dilated elements, cost nothing. Elementwise operations are left out: they take less than 1 % of a train step's
FLOPs, run on other units of the chip, and their time is that of the memory that they read and write.

Kernels that are written by hand have no operations in the text; `kernels.py` counts them.
"""

import functools
import math
import re

from maxtext_sparse.preflight.hlo import Computation, Instruction
from maxtext_sparse.preflight.kernels import kernel_flops

_LABELS = re.compile(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")


def flops(computation: Computation, instruction: Instruction) -> float:
  """FLOPs of an instruction alone, without those of the computations that it runs.

  Args:
    computation: the one that the instruction stands in, where its operands have their types.
    instruction: any instruction.
  """
  if instruction.opcode == "dot":
    return _dot(computation, instruction)
  if instruction.opcode == "convolution":
    return _convolution(computation, instruction)
  if instruction.opcode == "custom-call":
    return kernel_flops(computation, instruction)
  return 0.0


def _dot(computation: Computation, dot: Instruction) -> float:
  left = computation.instructions[dot.operands[0]].arrays[0]
  summed = _numbers(dot.attribute("lhs_contracting_dims"))
  return 2.0 * dot.arrays[0].size * math.prod(left.shape[axis] for axis in summed)


def _convolution(computation: Computation, convolution: Instruction) -> float:
  left, right = (computation.instructions[name].arrays[0].shape for name in convolution.operands[:2])
  out = convolution.arrays[0].shape
  labels = _LABELS.search(convolution.attributes)
  assert labels, f"{convolution.name}: a convolution without dim_labels"
  left_at, right_at, out_at = ({label: axis for axis, label in enumerate(names)} for names in labels.groups())
  spatial = sorted(label for label in out_at if label.isdigit())
  window = _window(convolution.attributes, len(spatial))
  valid = 1
  for index, label in enumerate(spatial):
    valid *= _valid_positions(left[left_at[label]], right[right_at[label]], out[out_at[label]], *window[index])
  # The kernel's input features are those of one group.
  features = right[right_at["i"]] * out[out_at["f"]]
  batch = out[out_at["b"]] if "b" in out_at else 1
  groups = int(convolution.attribute("batch_group_count") or 1)
  return 2.0 * valid * features * batch / groups


def _window(attributes: str, num_axes: int) -> list[tuple[int, int, int, int]]:
  """For each spatial axis: stride, padding below, dilation of the input, dilation of the kernel."""
  found = _WINDOW.search(attributes)
  fields = dict(field.split("=") for field in found[1].split()) if found else {}
  split = lambda name, default: fields[name].split("x") if name in fields else [default] * num_axes
  strides, pads = split("stride", "1"), split("pad", "0_0")
  bases, kernels = split("lhs_dilate", "1"), split("rhs_dilate", "1")
  return [
    (int(stride), int(pad.split("_")[0]), int(base), int(kernel))
    for stride, pad, base, kernel in zip(strides, pads, bases, kernels)
  ]


@functools.lru_cache(maxsize=4096)
def _valid_positions(size: int, kernel: int, out: int, stride: int, pad: int, base: int, dilation: int) -> int:
  """Pairs of an output and a kernel element along one axis that meet an element of the input.

  Output o meets with kernel element k the dilated input at o * stride + k * dilation - pad. That is an element of the
  input if it is a multiple of `base` within the input. With an input of 8, base 1, a kernel of 1 and no padding, all 8
  outputs meet one element each: 8.
  """
  if base == 1 and pad == 0 and (out - 1) * stride + (kernel - 1) * dilation < size:
    return out * kernel
  count = 0
  for k in range(kernel):
    for o in range(out):
      place = o * stride + k * dilation - pad
      count += place >= 0 and place % base == 0 and place // base < size
  return count


def _numbers(attribute: str | None) -> list[int]:
  return [int(number) for number in re.findall(r"\d+", attribute or "")]
