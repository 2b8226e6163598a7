"""The demo's figure, as the paper's Figure 1: active parameters and loss of the sparse, twin and dense run."""

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
  """Two panels over the steps: active parameters N(t) on the left, loss on the right."""
  figure, axes = style.panels(1, 2, width=3.75, height=3.3)
  params_axis, loss_axis = axes[0]
  for index, (name, curve) in enumerate(curves.items()):
    look = style.series(index)
    line: dict[str, Any] = {"color": look["color"], "linestyle": look["linestyle"], "linewidth": 1.8}
    params_axis.plot(*curve.params, label=titles[name], drawstyle="steps-post", **line)
    thin: dict[str, Any] = line | {"linewidth": 0.8, "alpha": 0.6}
    loss_axis.plot(*smoothed(curve.train_loss), **thin)
    loss_axis.plot(*_trained(curve.eval_loss), label=f"{titles[name]}: {curve.eval_loss[1][-1]:.3f}", **look)
  params_axis.set(title="Active parameters N(t)", xlabel="step", ylabel="non-zero prunable parameters", ylim=(0, None))
  style.count_axis(params_axis.yaxis)
  loss_axis.set(title="Held-out loss (thin: training)", xlabel="step", ylabel="cross-entropy (nats per token)")
  # The loss falls steeply in the first steps. The axis shows what comes after them, so that the runs can be told apart.
  losses = [loss for curve in curves.values() for loss in _late(smoothed(curve.train_loss)) + _late(curve.eval_loss)]
  room = 0.08 * (max(losses) - min(losses))
  loss_axis.set_ylim(min(losses) - room, max(losses) + room)
  params_axis.legend()
  # The losses come down from the upper left, so that the lower left is free.
  loss_axis.legend(title="at the end", loc="lower left")
  return figure


def _late(curve: Curve) -> list[float]:
  """The values of the last three quarters of a run."""
  steps, values = curve
  return [value for step, value in zip(steps, values) if step >= 0.25 * steps[-1]]


def _trained(curve: Curve) -> Curve:
  """The curve without the loss of the model as it was initialised."""
  points = [(step, loss) for step, loss in zip(*curve) if step > 0]
  return [step for step, _ in points], [loss for _, loss in points]


def smoothed(curve: Curve, num_points: int = 70) -> Curve:
  """Means over consecutive windows, placed at the last step of each window.

  The loss of single batches varies too much for a readable curve. Steps that do not fill the last window are left out.
  """
  steps, values = curve
  window = max(1, len(values) // num_points)
  starts = range(0, len(values) - window + 1, window)
  return [steps[i + window - 1] for i in starts], [sum(values[i : i + window]) / window for i in starts]
