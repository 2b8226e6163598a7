"""From a budget to a number of steps."""

import bisect
from collections.abc import Callable, Sequence
import functools

from maxtext_sparse.amounts import rounded_down, rounded_up
from maxtext_sparse.config import MOST_STEPS, SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.cost import training_flops
from maxtext_sparse.schedule import build_schedule, MOST_EVENTS, Schedule


def steps_for_tokens(tokens: float, tokens_per_step: int | None) -> int:
  """The whole steps that a token budget pays for.

  Raises:
    ConfigError: it pays for less than one step, or the tokens of a step are not known.
  """
  if tokens_per_step is None:
    raise ConfigError(f"--tokens={tokens:g}: the tokens of a step are not known, give --batch or a CONFIG")
  steps = int(tokens // tokens_per_step)
  if steps < 1:
    raise ConfigError(f"--tokens={tokens:g}: less than one step of {tokens_per_step} tokens")
  if steps > MOST_STEPS:
    most = MOST_STEPS * tokens_per_step
    raise ConfigError(
      f"--tokens={tokens:g}: {steps} steps of {tokens_per_step} tokens, must be at most {rounded_down(most)}"
    )
  return steps


def steps_for_flops(
  flops: float,
  keys: SparsityKeys,
  num_prunable: int | None,
  tokens_per_step: int | None,
  sizes: Sequence[int] | None = None,
) -> int:
  """The steps of the longest run whose effective FLOPs, 6 B sum_t N(t), are within the budget.

  Args:
    flops: the budget.
    keys: the sparsity keys.
    num_prunable: prunable weights of the model.
    tokens_per_step: tokens of a step.
    sizes: prunable weights under each of `keys.rules`; None where there is one rule.

  Raises:
    ConfigError: the budget is too small for one pruning event, or the model or the batch is not known.
  """
  if num_prunable is None or tokens_per_step is None:
    unknown = {"--prunable": num_prunable, "--batch": tokens_per_step}
    missing = " and ".join(option for option, value in unknown.items() if value is None)
    raise ConfigError(f"--flops={flops:g}: needs the size and the tokens of a step, give {missing}, or a CONFIG")

  def schedule_of(steps: int) -> Schedule | None:
    return _schedule_or_none(keys, steps, sizes)

  @functools.cache
  def cost(steps: int) -> float:
    """Cost of a run. It grows with the steps, with 0 for runs that are too short for their events."""
    schedule = schedule_of(steps)
    return 0.0 if schedule is None else training_flops(schedule.active_sum(steps, num_prunable), tokens_per_step)

  # No step costs less than one of the final model, which bounds the number of steps.
  sparsest = max(rule.sparsity for _, rule in keys.rules)
  most = int(flops / training_flops(num_prunable * (1.0 - sparsest), tokens_per_step))
  longest = min(MOST_STEPS, MOST_EVENTS * keys.gmp_pruning_frequency)
  if most > longest and cost(longest) < flops:
    raise ConfigError(
      f"--flops={flops:g}: pays for more than {longest} steps, must be at most {rounded_down(cost(longest))}"
    )
  steps = _last_within(flops, cost, min(most, longest), keys.gmp_pruning_frequency)
  if schedule_of(steps) is None:
    shortest = _shortest_run(schedule_of)
    least = f", needs at least {rounded_up(cost(shortest))} for {shortest} steps" if shortest else ""
    raise ConfigError(f"--flops={flops:g}: too small for a run with this schedule{least}")
  return steps


def _last_within(limit: float, cost: Callable[[int], float], most: int, width: int) -> int:
  """The largest number from 0 to `most` whose cost is within the limit. It is searched where a line through 0 has it.

  Args:
    limit: what it may cost.
    cost: never falls, and is almost in proportion to its argument. It takes up to a second.
    most: the largest number to consider, at least 1.
    width: how far from the line to look first.
  """
  guess = int(most * min(1.0, limit / cost(most))) if cost(most) else most
  while True:
    low, high = max(0, guess - width), min(most, guess + width)
    if (low == 0 or cost(low) <= limit) and (high == most or cost(high) > limit):
      return low + bisect.bisect_right(range(low + 1, high + 1), limit, key=cost)
    width *= 8


def _shortest_run(schedule_of: Callable[[int], Schedule | None], limit: int = 10**8) -> int | None:
  """The fewest steps that the schedule fits into; None if it does not even fit into `limit` steps."""

  def fits(steps: int) -> bool:
    return schedule_of(steps) is not None

  longest = 1
  while not fits(longest):
    longest *= 2
    if longest > limit:
      return None
  return bisect.bisect_left(range(1, longest + 1), True, key=fits) + 1


def _schedule_or_none(keys: SparsityKeys, steps: int, sizes: Sequence[int] | None) -> Schedule | None:
  """The schedule, or None if its events do not fit into the run."""
  try:
    return build_schedule(keys, steps, sizes)
  except ConfigError:
    return None
