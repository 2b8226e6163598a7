"""L-BFGS for many small problems at once: all starts advance in lockstep, each lane one function evaluation a round.

Two-loop recursion (Liu & Nocedal 1989, algorithm 2.1) with a weak Wolfe line search by bisection (Lewis & Overton 2013,
algorithm 2.6). The search is part of the state, so that a lane with a hard search does not hold up the others, and lanes
that have ended are dropped. In NumPy: compiling the same for one table costs several times what running it does.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

MAX_ITERATIONS = 1000
_MEMORY = 10
_SUFFICIENT_DECREASE = 1e-4
_CURVATURE = 0.9
_MAX_TRIALS = 20
# A lane ends after this many iterations in a row that lowered the objective by less than the tolerance.
_QUIET_ITERATIONS = 5
_RELATIVE_TOLERANCE = 1e-15

# (x [b, p], lanes [b] that these rows belong to) -> objective [b], gradient [b, p]
Objective = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass
class _Lanes:
  """The lanes that still run; axis 0 of every array is the lane.

  Attributes:
    index: which start.
    x, objective, gradient: [b, p], [b], [b, p], the last accepted point.
    direction, slope: [b, p], [b], of the line search.
    step, low, high, trials: [b], the step that is tried next and its bracket.
    dx, dg, rho: [b, m, p], [b, m, p], [b, m], the last m steps, gradient changes and 1 / dx.dg, newest last, 0 if empty.
    iterations, quiet, restarts, is_done: [b].
  """

  index: np.ndarray
  x: np.ndarray
  objective: np.ndarray
  gradient: np.ndarray
  direction: np.ndarray
  slope: np.ndarray
  step: np.ndarray
  low: np.ndarray
  high: np.ndarray
  trials: np.ndarray
  dx: np.ndarray
  dg: np.ndarray
  rho: np.ndarray
  iterations: np.ndarray
  quiet: np.ndarray
  restarts: np.ndarray
  is_done: np.ndarray

  def rows(self, which: np.ndarray) -> "_Lanes":
    return _Lanes(*(getattr(self, field.name)[which] for field in dataclasses.fields(self)))

  def search(self, which: np.ndarray, direction: np.ndarray, step: float) -> None:
    """Begins a line search in these lanes."""
    self.direction[which], self.slope[which] = direction, _dot(direction, self.gradient[which])
    self.step[which], self.low[which], self.high[which], self.trials[which] = step, 0.0, np.inf, 0


def minimise(
  evaluate: Objective, starts: np.ndarray, max_iterations: int = MAX_ITERATIONS
) -> tuple[np.ndarray, np.ndarray]:
  """Minimises from every start.

  Args:
    evaluate: objective and gradient of many points.
    starts: [b, p] float64.
    max_iterations: accepted steps of a lane at most.

  Returns: x [b, p] and the objective there [b], infinite where it is not finite at the start.
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


def _begun(evaluate: Objective, starts: np.ndarray) -> _Lanes:
  """Lanes of the starts that have a finite objective, each about to search downhill."""
  everything = np.arange(len(starts))
  objective, gradient = evaluate(starts, everything)
  index = everything[_is_finite(objective, gradient)]
  num_lanes, num_values = len(index), starts.shape[1]
  numbers = lambda *shape: np.zeros((num_lanes, *shape))
  counts = lambda: np.zeros(num_lanes, np.int64)
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


def _advance(lanes: _Lanes, objective: np.ndarray, gradient: np.ndarray, max_iterations: int) -> None:
  """After one evaluation: in each lane the step is accepted, its bracket narrowed, or the search given up."""
  bound = lanes.objective + _SUFFICIENT_DECREASE * lanes.step * lanes.slope
  is_low_enough = _is_finite(objective, gradient) & (objective <= bound)
  is_accepted = is_low_enough & (_dot(gradient, lanes.direction) >= _CURVATURE * lanes.slope)
  if not is_accepted.all():
    _narrow(lanes, np.flatnonzero(~is_accepted), is_low_enough)
  accepted = np.flatnonzero(is_accepted)
  if len(accepted):
    _accept(lanes, accepted, objective[accepted], gradient[accepted], max_iterations)


def _narrow(lanes: _Lanes, rejected: np.ndarray, is_low_enough: np.ndarray) -> None:
  step = lanes.step[rejected]
  lanes.low[rejected] = np.where(is_low_enough[rejected], step, lanes.low[rejected])
  lanes.high[rejected] = high = np.where(is_low_enough[rejected], lanes.high[rejected], step)
  lanes.step[rejected] = np.where(np.isfinite(high), 0.5 * (lanes.low[rejected] + high), 2.0 * step)
  lanes.trials[rejected] += 1
  exhausted = rejected[lanes.trials[rejected] >= _MAX_TRIALS]
  if len(exhausted):
    _restart(lanes, exhausted)


def _restart(lanes: _Lanes, exhausted: np.ndarray) -> None:
  """Forgets the curvature and goes downhill; a lane that cannot even do that is at rounding level and ends."""
  lanes.is_done[exhausted] = lanes.restarts[exhausted] >= 1
  lanes.restarts[exhausted] += 1
  lanes.rho[exhausted] = 0.0
  lanes.search(exhausted, _steepest(lanes.gradient[exhausted]), 1e-3)


def _accept(
  lanes: _Lanes, accepted: np.ndarray, objective: np.ndarray, gradient: np.ndarray, max_iterations: int
) -> None:
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


def _remember(lanes: _Lanes, which: np.ndarray, dx: np.ndarray, dg: np.ndarray) -> None:
  """Pushes a pair out at the front and one in at the back; one without positive curvature counts as empty."""
  product = _dot(dx, dg)
  rho = np.divide(1.0, product, out=np.zeros_like(product), where=product > 0)
  for memory, newest in ((lanes.dx, dx), (lanes.dg, dg), (lanes.rho, rho)):
    memory[which] = np.concatenate([memory[which, 1:], newest[:, None]], axis=1)


def _two_loop(gradient: np.ndarray, dx: np.ndarray, dg: np.ndarray, rho: np.ndarray) -> np.ndarray:
  """-H g [b, p] with H the L-BFGS inverse Hessian, scaled by dx.dg / dg.dg of the newest pair."""
  result, weights = gradient.copy(), np.empty_like(rho)
  for pair in reversed(range(rho.shape[1])):
    weights[:, pair] = rho[:, pair] * _dot(dx[:, pair], result)
    result -= weights[:, pair, None] * dg[:, pair]
  curvature = rho[:, -1] * _dot(dg[:, -1], dg[:, -1])
  result *= np.divide(1.0, curvature, out=np.ones_like(curvature), where=curvature > 0)[:, None]
  for pair in range(rho.shape[1]):
    result += (weights[:, pair] - rho[:, pair] * _dot(dg[:, pair], result))[:, None] * dx[:, pair]
  return -result


def _steepest(gradient: np.ndarray) -> np.ndarray:
  """Downhill with unit length [b, p]; zero stays zero."""
  norm = np.linalg.norm(gradient, axis=1, keepdims=True)
  return -gradient / np.where(norm > 0, norm, 1.0)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Row by row: [b, p], [b, p] -> [b]."""
  return np.einsum("bp,bp->b", a, b)


def _is_finite(objective: np.ndarray, gradient: np.ndarray) -> np.ndarray:
  return np.isfinite(objective) & np.isfinite(gradient).all(axis=1)
