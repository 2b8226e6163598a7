"""N(t) as a text plot for a terminal."""

from maxtext_sparse.plan.cost import RunPlan
from maxtext_sparse.terminal import short

_BLOCKS = " ▁▂▃▄▅▆▇█"


def draw(plan: RunPlan, width: int = 60, height: int = 8) -> list[str]:
  """Draws the active weights, or the density where N is not known, as filled columns with axes.

  Args:
    plan: the planned run.
    width: columns of the plot without its axis. Each shows the step in its middle.
    height: rows of the plot without its axis.

  Returns:
    The lines.
  """
  top = float(plan.num_prunable or 1)
  columns = [plan.active(int((i + 0.5) * plan.steps / width)) / top * height for i in range(width)]
  lines = []
  for row in range(height, 0, -1):
    # Eighths of a row are blocks of their own, so a row shows heights from row - 1 to row.
    blocks = "".join(_BLOCKS[round(8 * min(1.0, max(0.0, column - row + 1)))] for column in columns)
    axis = _label(plan, top * row / height) if row in (height, height // 2) else ""
    lines.append(f"{axis:>7} ┤{blocks}")
  marks = sorted({0, plan.schedule.start, plan.schedule.end, plan.steps})
  lines.append(f"{0:>7} ┼" + "─" * width)
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
