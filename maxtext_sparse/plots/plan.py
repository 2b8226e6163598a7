"""N(t) as a picture."""

import os

from maxtext_sparse.config import ConfigError
from maxtext_sparse.plan.cost import RunPlan


def save_figure(report: RunPlan, path: str) -> None:
  """Writes a plot of N(t) with its average and phases, as the left half of the paper's figure 1.

  Raises:
    ConfigError: matplotlib is not installed, or the path cannot be written.
  """
  try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
  except ImportError:
    raise ConfigError("--plot: needs matplotlib, add it with: pip install 'maxtext-sparse[analysis]'") from None
  figure = Figure(figsize=(7.0, 4.0), dpi=150, layout="constrained")
  FigureCanvasAgg(figure)
  _draw(figure.add_subplot(), report)
  try:
    figure.savefig(path)
  except (OSError, ValueError) as error:
    folder = os.path.dirname(path) or "."
    reason = f"{folder} is no folder" if not os.path.isdir(folder) else str(error).splitlines()[0]
    raise ConfigError(f"--plot={path}: cannot write this picture ({reason})") from None


def _draw(axes, report: RunPlan) -> None:
  schedule, unit = report.schedule, 1e6
  scale = report.num_prunable / unit if report.num_prunable else 1.0
  # Steps at which N(t) changes: an event at t is first seen by the forward pass of t+1.
  edges = [0, *(event + 1 for event in schedule.event_steps), schedule.steps]
  levels = [1.0, *schedule.densities]
  axes.stairs(
    [level * scale for level in levels], edges, baseline=None, color="tab:blue", linewidth=2, label="active, N(t)"
  )
  average = report.average_density * scale
  axes.axhline(average, color="tab:orange", linestyle="--", label=f"average, {average:.4g} (size of the dense twin)")
  for phase in report.phases():
    if phase.num_steps:
      middle = (phase.begin + phase.stop) / 2
      axes.text(middle, 0.03 * scale, f"{phase.name}\n{phase.compute_share:.0%}", ha="center", fontsize=8)
      axes.axvline(phase.stop, color="0.8", linewidth=0.8, zorder=0)
  axes.set(xlim=(0, schedule.steps), ylim=(0, 1.08 * scale), xlabel="step; percentages are shares of the compute")
  axes.set_ylabel("active prunable parameters (M)" if report.num_prunable else "density of the prunable weights")
  axes.set_title(f"S = {1 - schedule.final_density:.4g}, {schedule.describe().split(' to density')[0]}", fontsize=10)
  axes.legend(loc="upper right", fontsize=8, frameon=False)
