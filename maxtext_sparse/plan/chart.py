"""N(t) as text, for a terminal."""

from maxtext_sparse.plan.cost import RunPlan
from maxtext_sparse.terminal import short

_BLOCKS = " ▁▂▃▄▅▆▇█"


def draw(report: RunPlan, width: int = 60, height: int = 8) -> list[str]:
  """Lines of an area plot of N(t), the density where N is not known, with axes.

  Args:
    report: the planned run.
    width: columns of the plot itself; each shows the step in its middle.
    height: rows of the plot itself.
  """
  top = float(report.num_prunable or 1)
  label = short if report.num_prunable else (lambda value: f"{value:.2f}")
  columns = [report.active(int((i + 0.5) * report.steps / width)) / top * height for i in range(width)]
  lines = []
  for row in range(height, 0, -1):
    blocks = "".join(_BLOCKS[round(8 * min(1.0, max(0.0, column - row + 1)))] for column in columns)
    axis = label(top * row / height) if row in (height, height // 2) else ""
    lines.append(f"{axis:>7} ┤{blocks}")
  marks = sorted({0, report.schedule.start, report.schedule.end, report.steps})
  lines.append(f"{0:>7} ┼" + "─" * width)
  lines.append(" " * 9 + _tick_labels(marks, report.steps, width) + " steps")
  return lines


def _tick_labels(marks: list[int], steps: int, width: int) -> str:
  """Step numbers under their columns; one that would touch its left neighbour is left out, the last never."""
  text = ""
  for mark in marks:
    at = min(round(mark / steps * width), width - len(str(steps)))
    if mark in (0, steps) or (at > len(text) and at + len(str(mark)) < width - len(str(steps))):
      text = text.ljust(at)[:at] + str(mark)
  return text
