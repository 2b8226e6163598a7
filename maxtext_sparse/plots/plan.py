"""N(t) of a planned run as a picture, like the left half of the paper's figure 1."""

import os
from typing import Any

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.cost import RunPlan

_ENDINGS = (".png", ".svg", ".pdf")


def save_figure(plan: RunPlan, path: str) -> None:
  """Draws N(t) with its average and phases into one file.

  Args:
    plan: the planned run.
    path: file; its ending gives the format.

  Raises:
    ConfigError: matplotlib is not installed, or the file cannot be written.
  """
  if not path.lower().endswith(_ENDINGS) or os.path.isdir(path):
    raise ConfigError(
      f"--plot={path}: must be the path of a picture that ends in {', '.join(_ENDINGS)}, such as plan.png"
    )
  try:
    from maxtext_sparse.plots import style
  except ImportError:
    raise ConfigError("--plot: needs matplotlib, add it with: pip install 'maxtext-sparse[analysis]'") from None
  with style.in_style():
    figure = draw_plan(plan)
    try:
      style.save_picture(figure, path)
    except (OSError, ValueError) as error:
      folder = os.path.dirname(path) or "."
      reason = f"{folder} is not a folder" if not os.path.isdir(folder) else str(error).splitlines()[0]
      raise ConfigError(f"--plot={path}: cannot write this picture ({reason})") from None


def draw_plan(plan: RunPlan) -> Any:
  """The figure: N(t) as steps, its average, and a line where a phase ends."""
  from maxtext_sparse.plots import style

  figure, axes = style.panels(1, 1, width=7.0, height=4.0)
  axis = axes[0, 0]
  schedule = plan.schedule
  scale = plan.num_prunable or 1.0
  # Steps at which N(t) changes: an event at t is first seen by the forward pass of t+1.
  edges = [0, *(event + 1 for event in schedule.event_steps), schedule.steps]
  levels = [level * scale for level in (1.0, *schedule.densities)]
  axis.stairs(levels, edges, baseline=None, color=style.colour(0), linewidth=2, label="active, N(t)")
  average = plan.average_density * scale
  size = style.compact(average) if plan.num_prunable else f"{average:.4g}"
  label = f"average, {size} (size of the dense twin)"
  axis.axhline(average, color=style.colour(3), linestyle=style.DASHES[1], label=label)
  phases = [phase for phase in plan.phases() if phase.num_steps]
  for phase in phases[:-1]:
    label = "end of a phase" if phase is phases[0] else ""
    axis.axvline(phase.stop, color="0.5", linewidth=0.9, linestyle=style.DASHES[2], label=label)
  axis.set(xlim=(0, schedule.steps), ylim=(0, 1.08 * scale), xlabel="step")
  axis.set_ylabel("active prunable parameters" if plan.num_prunable else "density of the prunable weights")
  if plan.num_prunable:
    style.count_axis(axis.yaxis)
  shares = ", ".join(f"{phase.name} {100 * phase.compute_share:.0f} %" for phase in phases)
  events = schedule.describe().split(" to density")[0]
  axis.set_title(f"S = {1 - schedule.final_density:.4g}, {events}\nshares of the compute: {shares}", fontsize=9)
  figure.legend(loc="outside lower center", ncols=3)
  return figure
