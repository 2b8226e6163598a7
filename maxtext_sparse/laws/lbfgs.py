"""L-BFGS for many small problems at once. A lane is one start; in each round every lane evaluates its function once.

Algorithms: the two-loop recursion (Liu & Nocedal 1989, algorithm 2.1) and a weak Wolfe line search by bisection (Lewis &
Overton 2013, algorithm 2.6). The line search is part of a lane's state, so a lane with a hard search does not hold up
the others. Lanes that have ended are dropped.

Why not scipy: a bootstrap of 1,000 is 2,000 fits of a few dozen runs, and scipy's L-BFGS-B spends most of its time
between the evaluations. With the same gradients it takes 1.6 to 5 times the CPU time, for most laws more than processes
on a laptop's cores win back. Why not jax: to compile the loop costs several times what it takes to run.
"""

from collections.abc import Callable
import dataclasses

import numpy as np
import numpy.typing as npt

from maxtext_sparse.laws import Array

MAX_ITERATIONS = 1000
_MEMORY = 10
_SUFFICIENT_DECREASE = 1e-4
_CURVATURE = 0.9
_MAX_TRIALS = 20
# A lane ends after this many iterations in a row that each lower the objective by less than the tolerance.
_QUIET_ITERATIONS = 5
_RELATIVE_TOLERANCE = 1e-15

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
# (x [b, p], lanes [b] that these rows belong to) -> objective [b], gradient [b, p]
Evaluate = Callable[[Array, Indices], tuple[Array, Array]]


@dataclasses.dataclass
class _Lanes:
  """The b lanes that still run. Axis 0 of every array is the lane.

  Attributes:
    index: which start the lane belongs to [b].
    x: last accepted point [b, p].
    objective: value there [b].
    gradient: gradient there [b, p].
    direction: of the line search [b, p].
    slope: gradient x direction [b].
    step: the step that is tried next [b].
    low, high: bracket of the step [b].
    trials: steps tried in this search [b].
    dx, dg: the last m steps and gradient changes [b, m, p], newest last.
    rho: 1 / (dx . dg) of each [b, m], 0 where the memory is empty.
    iterations: accepted steps [b].
    quiet: how many of the last steps in a row hardly lowered the objective [b].
    restarts: searches given up since the last accepted step [b].
    is_done: whether the lane has ended [b].
  """

  index: Indices
  x: Array
  objective: Array
  gradient: Array
  direction: Array
  slope: Array
  step: Array
  low: Array
  high: Array
  trials: Indices
  dx: Array
  dg: Array
  rho: Array
  iterations: Indices
  quiet: Indices
  restarts: Indices
  is_done: Flags

  def rows(self, which: Flags) -> "_Lanes":
    return _Lanes(*(getattr(self, field.name)[which] for field in dataclasses.fields(self)))

  def search(self, which: Indices, direction: Array, step: float) -> None:
    """Begins a line search in these lanes."""
    self.direction[which], self.slope[which] = direction, _dot(direction, self.gradient[which])
    self.step[which], self.low[which], self.high[which], self.trials[which] = step, 0.0, np.inf, 0


def minimise(evaluate: Evaluate, starts: Array, max_iterations: int = MAX_ITERATIONS) -> tuple[Array, Array]:
  """Minimises from every start.

  Args:
    evaluate: objective and gradient of many points.
    starts: [b, p] float64.
    max_iterations: accepted steps of a lane at most.

  Returns:
    x [b, p], and the objective there [b]: infinite where it is not finite at the start.
  """
  found, least = starts.copy(), np.full(len(starts), np.inf)
  with np.errstate(over="ignore", invalid="ignore"):
    lanes = _begun(evaluate, starts)
    while len(lanes.index):
      _advance(lanes, *evaluate(lanes.x + lanes.step[:, None] * lanes.direction, lanes.index), max_iterations)
      if lanes.is_done.any():
        found[lanes.index], least[lanes.index] = lanes.x, lanes.objective
        lanes = lanes.rows(~lanes.is_done)
  return found, least


def _begun(evaluate: Evaluate, starts: Array) -> _Lanes:
  """The lanes of all starts with a finite objective. Each is about to search downhill."""
  everything = np.arange(len(starts))
  objective, gradient = evaluate(starts, everything)
  index = everything[_is_finite(objective, gradient)]
  num_lanes, num_values = len(index), starts.shape[1]

  def numbers(*shape: int) -> Array:
    return np.zeros((num_lanes, *shape))

  def counts() -> Indices:
    return np.zeros(num_lanes, np.int64)

  lanes = _Lanes(
    index=index,
    x=starts[index],
    objective=objective[index],
    gradient=gradient[index],
    direction=numbers(num_values),
    slope=numbers(),
    step=numbers(),
    low=numbers(),
    high=numbers(),
    trials=counts(),
    dx=numbers(_MEMORY, num_values),
    dg=numbers(_MEMORY, num_values),
    rho=numbers(_MEMORY),
    iterations=counts(),
    quiet=counts(),
    restarts=counts(),
    is_done=~gradient[index].any(axis=1),
  )
  lanes.search(np.arange(num_lanes), _steepest(lanes.gradient), 1.0)
  return lanes


def _advance(lanes: _Lanes, objective: Array, gradient: Array, max_iterations: int) -> None:
  """Uses one evaluation: each lane accepts the step, narrows its bracket, or gives the search up."""
  bound = lanes.objective + _SUFFICIENT_DECREASE * lanes.step * lanes.slope
  is_low_enough = _is_finite(objective, gradient) & (objective <= bound)
  is_accepted = is_low_enough & (_dot(gradient, lanes.direction) >= _CURVATURE * lanes.slope)
  if not is_accepted.all():
    _narrow(lanes, np.flatnonzero(~is_accepted), is_low_enough)
  accepted = np.flatnonzero(is_accepted)
  if len(accepted):
    _accept(lanes, accepted, objective[accepted], gradient[accepted], max_iterations)


def _narrow(lanes: _Lanes, rejected: Indices, is_low_enough: Flags) -> None:
  """Halves the bracket of rejected steps, or doubles the step while there is no upper end."""
  step = lanes.step[rejected]
  lanes.low[rejected] = np.where(is_low_enough[rejected], step, lanes.low[rejected])
  lanes.high[rejected] = high = np.where(is_low_enough[rejected], lanes.high[rejected], step)
  lanes.step[rejected] = np.where(np.isfinite(high), 0.5 * (lanes.low[rejected] + high), 2.0 * step)
  lanes.trials[rejected] += 1
  exhausted = rejected[lanes.trials[rejected] >= _MAX_TRIALS]
  if len(exhausted):
    _restart(lanes, exhausted)


def _restart(lanes: _Lanes, exhausted: Indices) -> None:
  """Forgets the curvature and searches downhill. A lane that fails twice in a row is at rounding level and ends."""
  lanes.is_done[exhausted] = lanes.restarts[exhausted] >= 1
  lanes.restarts[exhausted] += 1
  lanes.rho[exhausted] = 0.0
  lanes.search(exhausted, _steepest(lanes.gradient[exhausted]), 1e-3)


def _accept(lanes: _Lanes, accepted: Indices, objective: Array, gradient: Array, max_iterations: int) -> None:
  """Moves these lanes, ends those that have converged, and begins the next search of the others."""
  dx, dg = lanes.step[accepted, None] * lanes.direction[accepted], gradient - lanes.gradient[accepted]
  is_quiet = lanes.objective[accepted] - objective <= _RELATIVE_TOLERANCE * np.abs(lanes.objective[accepted])
  lanes.quiet[accepted] = np.where(is_quiet, lanes.quiet[accepted] + 1, 0)
  lanes.iterations[accepted] += 1
  lanes.restarts[accepted] = 0
  lanes.x[accepted] += dx
  lanes.objective[accepted], lanes.gradient[accepted] = objective, gradient
  is_over = (lanes.quiet[accepted] >= _QUIET_ITERATIONS) | (lanes.iterations[accepted] >= max_iterations)
  lanes.is_done[accepted] = is_over | ~gradient.any(axis=1)
  _remember(lanes, accepted, dx, dg)
  direction = _two_loop(gradient, lanes.dx[accepted], lanes.dg[accepted], lanes.rho[accepted])
  is_descent = _dot(direction, gradient) < 0
  if not is_descent.all():
    direction = np.where(is_descent[:, None], direction, _steepest(gradient))
  lanes.search(accepted, direction, 1.0)


def _remember(lanes: _Lanes, which: Indices, dx: Array, dg: Array) -> None:
  """Drops the oldest pair and appends the newest. A pair without positive curvature gets rho 0, which skips it."""
  product = _dot(dx, dg)
  rho = np.divide(1.0, product, out=np.zeros_like(product), where=product > 0)
  for memory, newest in ((lanes.dx, dx), (lanes.dg, dg), (lanes.rho, rho)):
    memory[which] = np.concatenate([memory[which, 1:], newest[:, None]], axis=1)


def _two_loop(gradient: Array, dx: Array, dg: Array, rho: Array) -> Array:
  """-H g [b, p], with H the L-BFGS inverse Hessian scaled by dx.dg / dg.dg of the newest pair."""
  result, weights = gradient.copy(), np.empty_like(rho)
  for pair in reversed(range(rho.shape[1])):
    weights[:, pair] = rho[:, pair] * _dot(dx[:, pair], result)
    result -= weights[:, pair, None] * dg[:, pair]
  curvature = rho[:, -1] * _dot(dg[:, -1], dg[:, -1])
  result *= np.divide(1.0, curvature, out=np.ones_like(curvature), where=curvature > 0)[:, None]
  for pair in range(rho.shape[1]):
    result += (weights[:, pair] - rho[:, pair] * _dot(dg[:, pair], result))[:, None] * dx[:, pair]
  return -result


def _steepest(gradient: Array) -> Array:
  """The downhill direction with unit length [b, p]; a zero gradient stays zero."""
  norm = np.linalg.norm(gradient, axis=1, keepdims=True)
  direction: Array = -gradient / np.where(norm > 0, norm, 1.0)
  return direction


def _dot(a: Array, b: Array) -> Array:
  """Row by row: [b, p], [b, p] -> [b]."""
  products: Array = np.einsum("bp,bp->b", a, b)
  return products


def _is_finite(objective: Array, gradient: Array) -> Flags:
  flags: Flags = np.isfinite(objective) & np.isfinite(gradient).all(axis=1)
  return flags
