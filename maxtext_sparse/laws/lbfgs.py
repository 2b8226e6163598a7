"""L-BFGS for many small problems at once: all starts advance in lockstep, each lane one function evaluation a round.

Two-loop recursion (Liu & Nocedal 1989, algorithm 2.1) with a weak Wolfe line search by bisection (Lewis & Overton 2013,
algorithm 2.6). The search is part of the state, so that a lane with a hard search does not hold up the others.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

MAX_ITERATIONS = 1000
_MEMORY = 10
_SUFFICIENT_DECREASE = 1e-4
_CURVATURE = 0.9
_MAX_TRIALS = 40
# A lane ends after this many iterations in a row that lowered the objective by less than the tolerance.
_QUIET_ITERATIONS = 5
_RELATIVE_TOLERANCE = 1e-15

Objective = Callable[..., jax.Array]


class _Search(NamedTuple):
  """Line search from x along `direction` [p]: the step lies between `low` and `high`, `step` is tried next."""

  direction: jax.Array
  slope: jax.Array
  step: jax.Array
  low: jax.Array
  high: jax.Array
  trials: jax.Array


class _Memory(NamedTuple):
  """The last m steps dx [m, p] and gradient changes dg [m, p], newest last; rho = 1 / dx.dg, 0 where empty."""

  dx: jax.Array
  dg: jax.Array
  rho: jax.Array


class State(NamedTuple):
  """One lane: x [p], objective there, gradient [p], and the bookkeeping."""

  x: jax.Array
  objective: jax.Array
  gradient: jax.Array
  search: _Search
  memory: _Memory
  iterations: jax.Array
  quiet: jax.Array
  restarts: jax.Array
  is_done: jax.Array


@functools.partial(jax.jit, static_argnames=("objective", "max_iterations"))
def minimise(
  objective: Objective, starts: jax.Array, weights: jax.Array, *data: jax.Array, max_iterations: int = MAX_ITERATIONS
) -> State:
  """Minimises `objective(x, weights, *data)` from every start.

  Args:
    objective: scalar function; hashable, compiled once for each set of shapes.
    starts: [b, p] float64.
    weights: [b, n], one row for each start.
    *data: shared by all starts.
    max_iterations: accepted steps of a lane at most.

  Returns:
    The final state, each leaf with a leading axis of b.
  """
  evaluate = jax.value_and_grad(objective)

  def advance(state, lane_weights):
    trial = state.x + state.search.step * state.search.direction
    return _advanced(state, trial, *evaluate(trial, lane_weights, *data), max_iterations)

  is_running = lambda state: ~jnp.all(state.is_done)
  return jax.lax.while_loop(is_running, lambda s: jax.vmap(advance)(s, weights), jax.vmap(_initial)(starts))


def _initial(x: jax.Array) -> State:
  """Not evaluated yet: a search of length zero from an infinite objective, so that the first round accepts x itself.

  Evaluating here as well would compile the objective twice.
  """
  zero, flat = jnp.zeros((), jnp.int32), jnp.zeros_like(x)
  empty = jnp.zeros((_MEMORY, x.shape[0]), x.dtype)
  memory = _Memory(empty, empty, jnp.zeros(_MEMORY, x.dtype))
  infinite = jnp.full_like(x[0], jnp.inf)
  return State(x, infinite, flat, _new_search(flat, flat, 1.0), memory, zero - 1, zero, zero, zero > 0)


def _advanced(state: State, trial, objective, gradient, max_iterations: int) -> State:
  """The state after one evaluation: step accepted, bracket narrowed, or search given up."""
  search = state.search
  is_finite = jnp.isfinite(objective) & jnp.all(jnp.isfinite(gradient))
  bound = state.objective + _SUFFICIENT_DECREASE * search.step * search.slope
  is_low_enough = is_finite & (objective <= bound)
  is_flat_enough = jnp.dot(gradient, search.direction) >= _CURVATURE * search.slope
  narrowed = state._replace(search=_narrowed(search, is_low_enough))
  rejected = _where(narrowed.search.trials >= _MAX_TRIALS, _restarted(state), narrowed)
  accepted = _accepted(state, trial, objective, gradient, max_iterations)
  return _where(state.is_done, state, _where(is_low_enough & is_flat_enough, accepted, rejected))


def _narrowed(search: _Search, is_low_enough: jax.Array) -> _Search:
  low = jnp.where(is_low_enough, search.step, search.low)
  high = jnp.where(is_low_enough, search.high, search.step)
  step = jnp.where(jnp.isfinite(high), 0.5 * (low + high), 2.0 * search.step)
  return search._replace(low=low, high=high, step=step, trials=search.trials + 1)


def _restarted(state: State) -> State:
  """Forgets the curvature and goes downhill; a lane that cannot even do that is at rounding level and ends."""
  memory = state.memory._replace(rho=jnp.zeros_like(state.memory.rho))
  search = _new_search(state.gradient, _steepest(state.gradient), 1e-3)
  return state._replace(memory=memory, search=search, restarts=state.restarts + 1, is_done=state.restarts >= 1)


def _accepted(state: State, x, objective, gradient, max_iterations: int) -> State:
  memory = _remember(state.memory, x - state.x, gradient - state.gradient)
  direction = _two_loop(gradient, memory)
  is_useful = (memory.rho[-1] > 0) & (jnp.dot(direction, gradient) < 0)
  direction = jnp.where(is_useful, direction, _steepest(gradient))
  is_quiet = state.objective - objective <= _RELATIVE_TOLERANCE * jnp.abs(state.objective)
  quiet = jnp.where(is_quiet, state.quiet + 1, 0)
  iterations = state.iterations + 1
  is_done = (quiet >= _QUIET_ITERATIONS) | (iterations >= max_iterations) | ~jnp.any(gradient)
  search = _new_search(gradient, direction, 1.0)
  return State(x, objective, gradient, search, memory, iterations, quiet, jnp.zeros_like(quiet), is_done)


def _new_search(gradient: jax.Array, direction: jax.Array, step: float) -> _Search:
  zero, infinite = jnp.zeros_like(gradient[0]), jnp.full_like(gradient[0], jnp.inf)
  slope = jnp.dot(direction, gradient)
  return _Search(direction, slope, zero + step, zero, infinite, jnp.zeros((), jnp.int32))


def _steepest(gradient: jax.Array) -> jax.Array:
  """Downhill with unit length; zero stays zero."""
  norm = jnp.linalg.norm(gradient)
  return -gradient / jnp.where(norm > 0, norm, 1.0)


def _remember(memory: _Memory, dx: jax.Array, dg: jax.Array) -> _Memory:
  product = jnp.dot(dx, dg)
  rho = jnp.where(product > 0, 1.0 / jnp.where(product > 0, product, 1.0), 0.0)
  pushed = _Memory(*(jnp.concatenate([old[1:], new[None]]) for old, new in zip(memory, (dx, dg, rho))))
  return _where(product > 0, pushed, memory)


def _two_loop(gradient: jax.Array, memory: _Memory) -> jax.Array:
  """-H g with H the L-BFGS inverse Hessian, scaled by dx.dg / dg.dg of the newest pair."""

  def newest_first(q, pair):
    dx, dg, rho = pair
    weight = rho * jnp.dot(dx, q)
    return q - weight * dg, weight

  def oldest_first(r, pair):
    dx, dg, rho, weight = pair
    return r + dx * (weight - rho * jnp.dot(dg, r)), None

  q, weights = jax.lax.scan(newest_first, gradient, memory, reverse=True)
  curvature = memory.rho[-1] * jnp.dot(memory.dg[-1], memory.dg[-1])
  scale = jnp.where(curvature > 0, 1.0 / jnp.where(curvature > 0, curvature, 1.0), 1.0)
  r, _ = jax.lax.scan(oldest_first, scale * q, (*memory, weights))
  return -r


def _where(condition: jax.Array, then, otherwise):
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), then, otherwise)
