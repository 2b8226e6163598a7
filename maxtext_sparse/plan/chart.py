"""N(t) as a text plot for a terminal."""

from maxtext_sparse.plan.cost import RunPlan
from maxtext_sparse.terminal import short

# Eighths of a row; and for terminals that have no such characters.
_BLOCKS, _ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " ..,,::##"
_FRAME, _ASCII_FRAME = ("┤", "┼", "─"), ("|", "+", "-")


def draw(plan: RunPlan, width: int = 60, height: int = 8, is_ascii: bool = False) -> list[str]:
  """Draws the active weights, or the density where N is not known, as filled columns with axes.

  Args:
    plan: the planned run.
    width: columns of the plot without its axis. Each shows the step in its middle.
    height: rows of the plot without its axis.
    is_ascii: whether to do without block characters.

  Returns:
    The lines.
  """
  top = float(plan.num_prunable or 1)
  columns = [plan.active(int((i + 0.5) * plan.steps / width)) / top * height for i in range(width)]
  blocks, (side, corner, floor) = (_ASCII_BLOCKS, _ASCII_FRAME) if is_ascii else (_BLOCKS, _FRAME)
  lines = []
  for row in range(height, 0, -1):
    # Eighths of a row are blocks of their own, so a row shows heights from row - 1 to row.
    line = "".join(blocks[round(8 * min(1.0, max(0.0, column - row + 1)))] for column in columns)
    axis = _label(plan, top * row / height) if row in (height, height // 2) else ""
    lines.append(f"{axis:>7} {side}{line}")
  marks = sorted({0, plan.schedule.start, plan.schedule.end, plan.steps})
  lines.append(f"{0:>7} {corner}" + floor * width)
  lines.append(" " * 9 + _tick_labels(marks, plan.steps, width) + " steps")
  return lines


def _label(plan: RunPlan, value: float) -> str:
  return short(value) if plan.num_prunable else f"{value:.2f}"


def _tick_labels(marks: list[int], steps: int, width: int) -> str:
  """Step numbers under their columns. A number that would touch its neighbour is left out, except the first and last."""
  text = ""
  for mark in marks:
    at = min(round(mark / steps * width), width - len(str(steps)))
    if mark in (0, steps) or (at > len(text) and at + len(str(mark)) < width - len(str(steps))):
      text = text.ljust(at)[:at] + str(mark)
  return text
