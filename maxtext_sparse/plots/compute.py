"""Figure 2: loss against effective compute with two slopes, and the coefficient of eq. 5 over training."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import Array
from maxtext_sparse.laws.curves import Curve
from maxtext_sparse.plots import style
from maxtext_sparse.plots.inputs import read_inputs

_NUM_KNEES = 200
# Points of each run, evenly spaced in log compute, so that late steps do not outvote early ones.
_POINTS_PER_RUN = 200
# The fit begins where the loss has fallen to this share of its first value. Before that the learning rate warms up.
_WARMED_UP = 0.95
# A legend has no room for more.
_MAX_NAMED_RUNS = 8


@dataclasses.dataclass(frozen=True)
class TwoSlopes:
  """log L = intercept - alpha_early min(x, knee) - alpha_late max(x - knee, 0), with x = ln C (eq. 3 on both sides)."""

  intercept: float
  alpha_early: float
  alpha_late: float
  knee_flops: float

  def loss(self, flops: Array) -> Array:
    x, knee = np.log(flops), np.log(self.knee_flops)
    loss: Array = np.exp(
      self.intercept - self.alpha_early * np.minimum(x, knee) - self.alpha_late * np.maximum(x - knee, 0)
    )
    return loss


def draw_compute(inputs: Sequence[str], laws: Sequence[str]) -> tuple[Figure, dict[str, Any]]:
  """Left: log loss over log effective compute of all runs, with the fit. Right: C_{0:k-1}^(-alpha-1) for both slopes."""
  del laws
  curves, _ = read_inputs(inputs)
  if not curves:
    raise ConfigError("compute: needs metrics files or run folders, a table has no loss during training")
  points = [_thinned(curve) for curve in curves]
  fit = fit_two_slopes(*map(np.concatenate, zip(*map(_after_warmup, points))))
  figure, axes = style.panels(1, 2, width=3.75, height=3.8)
  _draw_loss(axes[0, 0], curves, points, fit)
  # The curves of several sizes fill their panel.
  figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
  num_sizes = len({curve.active[0] for curve in curves})
  if num_sizes > 1:
    axes[0, 0].set_title(f"one fit to {len(curves)} runs of {num_sizes} sizes", size=9)
  longest = max(curves, key=lambda curve: (curve.sparsity > 0, len(curve.step)))
  ratios = _draw_coefficient(axes[0, 1], longest, fit)
  numbers = {"alpha_early": fit.alpha_early, "alpha_late": fit.alpha_late, "knee_flops": fit.knee_flops} | ratios
  return figure, {name: float(f"{value:.4g}") for name, value in numbers.items()}


def fit_two_slopes(flops: Array, loss: Array) -> TwoSlopes:
  """Fits a broken line in log compute to the log loss by least squares, with the break at each of many places.

  Args:
    flops: effective compute [n].
    loss: training loss [n].

  Returns:
    The fit with the least error.
  """
  x, y = np.log(flops), np.log(loss)
  best: tuple[float, Array, float] | None = None
  for knee in np.quantile(x, np.linspace(0.02, 0.98, _NUM_KNEES)):
    design = np.stack([np.ones_like(x), -np.minimum(x, knee), -np.maximum(x - knee, 0)], axis=1)
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    error = float(np.sum((design @ solution - y) ** 2))
    if best is None or error < best[0]:
      best = error, solution, knee
  assert best is not None
  intercept, early, late = map(float, best[1])
  return TwoSlopes(intercept, early, late, float(np.exp(best[2])))


def eq5_coefficient(curve: Curve, alpha: float) -> Array:
  """C_{0:k-1}^(-alpha-1) over pruning iterations k [i] (eq. 5), with the first iteration's compute C_0 as the unit."""
  ends = np.arange(min(curve.period, len(curve.step)) - 1, len(curve.step), curve.period)
  compute = curve.flops[ends]
  coefficient: Array = (compute / compute[0]) ** (-alpha - 1.0)
  return coefficient


def _thinned(curve: Curve) -> tuple[Array, Array]:
  """Compute and loss of a run at points evenly spaced in log compute. Each is the mean of the steps around it."""
  flops = curve.flops
  edges = np.geomspace(flops[0], flops[-1] * (1 + 1e-9), _POINTS_PER_RUN + 1)
  group = np.digitize(flops, edges)
  num_in = np.bincount(group)

  def mean(values: Array) -> Array:
    means: Array = np.bincount(group, values)[num_in > 0] / num_in[num_in > 0]
    return means

  return mean(flops), mean(curve.loss)


def _after_warmup(points: tuple[Array, Array]) -> tuple[Array, Array]:
  flops, loss = points
  is_down = loss <= _WARMED_UP * loss[0]
  begin = int(np.argmax(is_down)) if is_down.any() else 0
  return flops[begin:], loss[begin:]


def _draw_loss(axis: Axes, curves: Sequence[Curve], points: Sequence[tuple[Array, Array]], fit: TwoSlopes) -> None:
  groups = _groups(curves)
  for curve, (flops, loss) in zip(curves, points):
    label, index = groups[curve.name]
    look = style.series(index) | {"markersize": 3.5, "markevery": style.marks(index, len(flops)), "linewidth": 1.2}
    axis.plot(flops, loss, label=label if label not in axis.get_legend_handles_labels()[1] else None, **look)
  grid = np.geomspace(min(_after_warmup(p)[0][0] for p in points), max(p[0][-1] for p in points), 200)
  label = rf"fit, $\alpha$ = {fit.alpha_early:.3f} then {fit.alpha_late:.3f}"
  axis.plot(grid, fit.loss(grid), color="black", linewidth=2, linestyle=style.DASHES[1], label=label)
  axis.axvline(
    fit.knee_flops, color="black", linewidth=0.8, linestyle=style.DASHES[2], label=f"knee, {fit.knee_flops:.2g} FLOPs"
  )
  axis.set(
    xscale="log", yscale="log", xlabel="effective training compute (FLOPs)", ylabel="training loss (nats per token)"
  )
  style.log_ticks(axis.xaxis, style.flops_text)
  style.log_ticks(axis.yaxis, "{:g}".format, most=8)


def _groups(curves: Sequence[Curve]) -> dict[str, tuple[str, int]]:
  """Run name -> label and look. They are the run's own, or those of its sparsity where a legend has no room for all."""
  sparsity = {curve.name: round(curve.sparsity, 6) for curve in curves}
  if len(curves) <= _MAX_NAMED_RUNS:
    return {name: (f"{name} ({style.percent(value)})", index) for index, (name, value) in enumerate(sparsity.items())}
  order = sorted(set(sparsity.values()))
  return {name: (f"{style.percent(value)} sparse", order.index(value)) for name, value in sparsity.items()}


def _draw_coefficient(axis: Axes, curve: Curve, fit: TwoSlopes) -> dict[str, float]:
  """Draws both coefficients. Returns the factor by which each changes over the second half of training."""
  ratios = {}
  for index, (name, alpha) in enumerate((("late", fit.alpha_late), ("early", fit.alpha_early))):
    coefficient = eq5_coefficient(curve, alpha)
    iterations = np.arange(1, len(coefficient) + 1)
    look = style.series(index) | {"markevery": style.marks(index, len(iterations)), "markersize": 4}
    axis.plot(iterations, coefficient, label=rf"$\alpha$ = {alpha:.3f}", **look)
    factor = coefficient[-1] / coefficient[len(coefficient) // 2]
    ratios[f"eq5_coefficient_factor_over_second_half_alpha_{name}"] = float(factor)
  axis.set_title(f"coefficient of eq. 5 of {curve.name}", size=9)
  unit = "pruning iteration" if curve.sparsity > 0 else "interval"
  axis.set(
    xlabel=f"{unit}s k ({curve.period} steps each)",
    ylabel=r"$C_{0:k-1}^{-\alpha-1}$ ($C$ in units of the first " + f"{unit.split()[-1]}'s)",
    ylim=(0, None),
  )
  axis.legend()
  return ratios
