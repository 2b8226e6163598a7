"""The demo's figure: loss and active parameters of a dense and a sparse run."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from maxtext_sparse.demo.results import Curve, RunCurves
from maxtext_sparse.plots import style


def save_demo(stem: str, curves: Mapping[str, RunCurves], titles: Mapping[str, str]) -> str:
  """Draws the figure, writes stem.png and stem.svg, and returns the path of the first.

  Args:
    stem: path of the files without their suffix.
    curves: name of each run -> its curves.
    titles: name of each run -> what the legend calls it.

  Raises:
    ConfigError: the files cannot be written.
  """
  with style.in_style():
    return style.save(draw_demo(curves, titles), stem)[0]


def draw_demo(curves: Mapping[str, RunCurves], titles: Mapping[str, str]) -> Figure:
  """Two panels over the steps: loss on the left, active parameters N(t) on the right."""
  figure, axes = style.panels(1, 2, width=4.8, height=3.6)
  loss_axis, params_axis = axes[0]
  for index, (name, curve) in enumerate(curves.items()):
    look = style.series(index)
    line: dict[str, Any] = {"color": look["color"], "linestyle": look["linestyle"], "linewidth": 1.8}
    loss_axis.plot(*smoothed(curve.train_loss), color=look["color"], alpha=0.35, linewidth=1)
    loss_axis.plot(*curve.eval_loss, label=f"{titles[name]}, held-out", **look)
    params_axis.plot(*curve.params, label=titles[name], drawstyle="steps-post", **line)
  # The loss falls steeply in the first steps. The axis begins below that, so that the runs can be told apart.
  highest = 1.1 * max(loss for curve in curves.values() for step, loss in zip(*curve.eval_loss) if step > 0)
  loss_axis.set(title="Loss (thin: training batches)", xlabel="step", ylabel="cross-entropy (nats per token)")
  loss_axis.set_ylim(top=highest)
  params_axis.set(title="Active parameters N(t)", xlabel="step", ylabel="non-zero prunable parameters", ylim=(0, None))
  style.count_axis(params_axis.yaxis)
  for axis in (loss_axis, params_axis):
    axis.legend()
  return figure


def smoothed(curve: Curve, num_points: int = 70) -> Curve:
  """Means over consecutive windows, placed at the last step of each window.

  The loss of single batches varies too much for a readable curve. Steps that do not fill the last window are left out.
  """
  steps, values = curve
  window = max(1, len(values) // num_points)
  starts = range(0, len(values) - window + 1, window)
  return [steps[i + window - 1] for i in starts], [sum(values[i : i + window]) / window for i in starts]
