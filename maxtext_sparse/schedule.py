"""When weights are pruned and to which density: the arithmetic of a sparse run (paper section 3).

Symbols: T steps, S final sparsity, P steps between events, d(t) density of the prunable weights in the forward pass of
step t, C = sum_t d(t) the run's compute in units of one dense step, f_d and f_p the shares of C spent dense and pruning.

An event at step t ranks the weights as they are before the update of step t and acts in that update, so the first
forward pass that sees it is that of step t + 1. The authors' code prunes before the forward pass of step t itself, one
step earlier; over a whole run its average is smaller by S N / T.
"""

import bisect
from collections.abc import Sequence
import dataclasses
import itertools
import math

from maxtext_sparse.config import check_steps, SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.rules import PruningRule

# More events than this are a typing error.
MOST_EVENTS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The event list of one run.

  Attributes:
    steps: T, length of the run.
    event_steps: strictly increasing steps at which weights are pruned; empty for `hold`.
    densities: nominal density of all prunable weights after each event, never rising; the last one is 1 - S.
    shape: `geometric`, `cubic`, `linear`, `one-shot` or `hold`.
    kept: exact number of weights kept after each event, where matrices, groups or structures round it; None where it is
      `keep_count` of the density.

  Raises:
    ConfigError: the lists do not describe a run.
  """

  steps: int
  event_steps: tuple[int, ...]
  densities: tuple[float, ...]
  shape: str = "geometric"
  kept: tuple[int, ...] | None = None

  def __post_init__(self) -> None:
    events, densities = self.event_steps, self.densities
    if len(events) != len(densities):
      raise ConfigError(f"densities={densities}: must be one for each of the {len(events)} event_steps")
    if any(a >= b for a, b in itertools.pairwise(events)):
      raise ConfigError(f"event_steps={events}: must increase")
    if events and not 0 <= events[0] <= events[-1] < self.steps:
      raise ConfigError(f"event_steps={events}: must be between 0 and steps - 1 = {self.steps - 1}")
    if not all(0.0 <= density <= 1.0 for density in densities):
      raise ConfigError(f"densities={densities}: must be between 0 and 1")
    if any(a < b for a, b in itertools.pairwise(densities)):
      raise ConfigError(f"densities={densities}: must not rise, a pruned weight does not come back")
    assert self.kept is None or len(self.kept) == len(events)

  @property
  def start(self) -> int:
    """First event step; 0 for `hold`, whose zeros count from the beginning."""
    return self.event_steps[0] if self.event_steps else 0

  @property
  def end(self) -> int:
    return self.event_steps[-1] if self.event_steps else 0

  @property
  def first_masked_step(self) -> int:
    """First step whose gradients are the sparse model's."""
    return self.start + 1 if self.event_steps else 0

  @property
  def final_density(self) -> float:
    return self.densities[-1] if self.densities else 1.0

  def describe(self) -> str:
    """One phrase for logs and errors."""
    if not self.event_steps:
      return f"{self.shape}, no events (steps={self.steps})"
    count = len(self.event_steps)
    events = f"1 event at {self.start}" if count == 1 else f"{count} events at {self.start}..{self.end}"
    return f"{self.shape}, {events} to density {self.final_density:g} (steps={self.steps})"

  def target_density(self, step: int) -> float:
    """Nominal density after the update of `step`, the one that step's checkpoint has."""
    index = bisect.bisect_right(self.event_steps, step) - 1
    return self.densities[index] if index >= 0 else 1.0

  def active(self, step: int, num_prunable: int) -> int:
    """Exact number of prunable weights in the forward pass of a step. It sees the events before that step."""
    index = bisect.bisect_left(self.event_steps, step) - 1
    if index < 0:
      return num_prunable
    return keep_count(self.densities[index], num_prunable) if self.kept is None else self.kept[index]

  def is_event(self, step: int) -> bool:
    index = bisect.bisect_left(self.event_steps, step)
    return index < len(self.event_steps) and self.event_steps[index] == step

  def keep_counts(self, num_prunable: int) -> tuple[int, ...]:
    """Exact number of weights kept after each event."""
    if self.kept is not None:
      assert max(self.kept, default=0) <= num_prunable, "these counts are another model's"
      return self.kept
    return tuple(keep_count(density, num_prunable) for density in self.densities)

  def active_sum(self, num_steps: int, num_prunable: int, begin: int = 0, begin_active: int | None = None) -> int:
    """Sum over steps 0..num_steps-1 of the prunable weights active in the forward pass; an exact integer.

    Args:
      num_steps: how many steps to sum.
      num_prunable: number of prunable weights N.
      begin: step from which this schedule was in force; events before it did not happen.
      begin_active: active weights until the first event from `begin` on; N if None.
    """
    active = num_prunable if begin_active is None else begin_active
    total, since = 0, 0
    for event, keep in zip(self.event_steps, self.keep_counts(num_prunable)):
      # The event at step t acts in the update of t, so the forward pass of t + 1 is the first that sees it. An event at
      # the last step of the sum changes nothing in it.
      if event < begin or event + 1 >= num_steps:
        continue
      total += active * (event + 1 - since)
      active, since = min(active, keep), event + 1
    return total + active * (num_steps - since)

  def average_density(self) -> float:
    """Mean of d(t) over the run, from the nominal densities."""
    bounds = [0, *(step + 1 for step in self.event_steps), self.steps]
    held = [1.0, *self.densities]
    return math.fsum(d * (b - a) for d, a, b in zip(held, bounds, bounds[1:])) / self.steps


def keep_count(density: float, num_prunable: int, unit: int = 1) -> int:
  """Number of weights that a density stands for, a multiple of `unit` weights that go together."""
  # 1 - (1 - S) is S up to the last bit, which decides where S * N ends in a half.
  sparsity = round(1.0 - density, 15)
  return num_prunable - round(sparsity * num_prunable / unit) * unit


def mean_density_while_pruning(shape: str, sparsity: float) -> float:
  """Continuous-limit mean of d(t) over the pruning phase.

  geometric: integral of (1-S)^x dx = S / -ln(1-S); cubic: 1 - S + S/4; linear: 1 - S/2, x in [0, 1].
  """
  if sparsity == 0.0:
    return 1.0
  if shape == "geometric":
    return sparsity / -math.log1p(-sparsity)
  return 1.0 - {"cubic": 0.75, "linear": 0.5}[shape] * sparsity


def average_density_limit(shape: str, sparsity: float, dense_fraction: float, prune_fraction: float) -> float:
  """avg = C / T for the given compute shares, in the continuous limit.

  Each phase has share f of C, hence f * C / (mean density) steps, and the steps add up to T:
  avg = 1 / (f_d + f_p / m + (1 - f_d - f_p) / (1 - S)).

  S = 0.8 with shares 25 % and 50 %: m = 0.8 / ln 5 = 0.497, avg = 1 / (0.25 + 1.006 + 1.25) = 0.3991.
  """
  mean = mean_density_while_pruning(shape, sparsity)
  return _average_density(mean, 1.0 - sparsity, dense_fraction, prune_fraction)


def _average_density(mean: float, final: float, dense_fraction: float, prune_fraction: float) -> float:
  """`average_density_limit` from the mean density while pruning and the final density."""
  pruning_steps = prune_fraction / mean if prune_fraction else 0.0
  recovery = max(0.0, 1.0 - dense_fraction - prune_fraction)
  return 1.0 / (dense_fraction + pruning_steps + recovery / final)


def build_schedule(keys: SparsityKeys, steps: int, sizes: Sequence[int] | None = None) -> Schedule:
  """The event list that the keys ask for in a run of `steps` steps.

  Args:
    keys: the sparsity keys.
    steps: T.
    sizes: prunable weights under each of `keys.rules`, in their order. None where the model is not known: then one rule
      stands for all, which is exact where there are no `prune_groups`, and good enough to check the keys where there are.

  Raises:
    ConfigError: the events do not fit into the run.
  """
  check_steps(steps)
  if keys.pruning_method == "hold":
    return Schedule(steps, (), (), "hold")
  mix = _mix(keys, sizes)
  one_shot = keys.pruning_method == "one-shot"
  if keys.gmp_start_step >= 0:
    start, end = keys.gmp_start_step, keys.gmp_end_step
    _check_inside_run(start, end, steps)
  else:
    start, end = derive_bounds(keys, steps, mix)
  last = steps - 1
  if start > last:
    raise ConfigError(f"steps={steps}: the first event would be at step {start}, the last step is {last}")
  events = range(start, start + 1 if one_shot else min(end, last) + 1, keys.gmp_pruning_frequency)
  if len(events) > MOST_EVENTS:
    least = -(-(events[-1] - start) // MOST_EVENTS)
    raise ConfigError(
      f"gmp_pruning_frequency={keys.gmp_pruning_frequency}: makes {len(events)} pruning events, each with a record on "
      f"disk, must be at least {least + 1}"
    )
  event_steps = tuple(events)
  densities = [rule_densities(rule, len(event_steps)) for _, rule in mix]
  if len(mix) == 1:  # no share to multiply with, whose rounding could be seen
    total = densities[0]
  else:
    total = tuple(math.fsum(share * d for (share, _), d in zip(mix, at_event)) for at_event in zip(*densities))
  shapes = {rule.schedule for _, rule in mix}
  shape = "one-shot" if one_shot else shapes.pop() if len(shapes) == 1 else "mixed"
  return Schedule(steps, event_steps, total, shape)


# Shares of the prunable weights, and the rule that each follows.
_Mix = Sequence[tuple[float, PruningRule]]


def _mix(keys: SparsityKeys, sizes: Sequence[int] | None) -> _Mix:
  rules = [rule for _, rule in keys.rules]
  if sizes is None:
    # The global rule, or where it leaves its weights dense the first that does not.
    active = [rule for rule in (keys.rule, *rules) if rule.sparsity > 0]
    return [(1.0, (active or [keys.rule])[0])]
  assert len(sizes) == len(rules)
  found = [(size / sum(sizes), rule) for size, rule in zip(sizes, rules) if size]
  return [(1.0, found[0][1])] if len(found) == 1 else found


def refuse_idle(schedule: Schedule, num_prunable: int) -> None:
  """Raises ConfigError for a schedule whose sparsity is so small that no weight of a model goes."""
  if schedule.event_steps and schedule.active(schedule.steps, num_prunable) == num_prunable:
    raise ConfigError(
      f"sparsity={1.0 - schedule.final_density:.3g}: removes none of the {num_prunable} prunable weights, "
      f"must be at least {1.0 / num_prunable:.2g}"
    )


def derive_bounds(keys: SparsityKeys, steps: int, mix: _Mix | None = None) -> tuple[int, int]:
  """First and last event step from the two fractions, rounded to the pruning frequency."""
  mix = _mix(keys, None) if mix is None else mix
  f_d, f_p = keys.gmp_dense_fraction, keys.gmp_prune_fraction
  one_shot = keys.pruning_method == "one-shot"
  if one_shot:
    f_p = 0.0
  if keys.gmp_fraction_of == "steps":
    start, length = f_d * steps, f_p * steps
  else:
    # start = f_d * avg * T steps are dense; pruning takes f_p * avg * T / m steps.
    mean = sum(share * mean_density_while_pruning(rule.schedule, rule.sparsity) for share, rule in mix)
    final = sum(share * (1.0 - rule.sparsity) for share, rule in mix)
    compute = _average_density(mean, final, f_d, f_p) * steps
    start, length = f_d * compute, f_p * compute / mean
  period = keys.gmp_pruning_frequency
  if length < period and not one_shot:
    raise _too_short(period, length, steps)
  first = round(start / period) * period
  return first, max(first, round((start + length) / period) * period)


def _too_short(period: int, length: float, steps: int) -> ConfigError:
  reason = f"gmp_pruning_frequency={period}: longer than the pruning phase of {length:.3g} steps (steps={steps})"
  if length < 1.0:
    return ConfigError(f"{reason}, train for more steps or raise gmp_prune_fraction")
  return ConfigError(f"{reason}, must be at most {int(length)}")


def _check_inside_run(start: int, end: int, steps: int) -> None:
  if start >= steps:
    raise ConfigError(f"gmp_start_step={start}: beyond the run, must be at most steps-1={steps - 1}")
  if end > steps:
    raise ConfigError(f"gmp_end_step={end}: beyond the run, must be at most steps={steps}")


def rule_densities(rule: PruningRule, num_events: int) -> tuple[float, ...]:
  """Density of a rule's weights after event i of n, x = (i+1)/n.

  geometric (1-S)^x, a fixed fraction of the remaining weights each time (paper section 3);
  cubic 1 - S + S (1-x)^3 (Zhu & Gupta 2017, eq. 1); linear 1 - S x.

  S = 0.75 in two events: geometric 0.5, 0.25; cubic 0.34375, 0.25; linear 0.625, 0.25.
  """
  sparsity = rule.sparsity
  shapes = {
    "geometric": lambda x: (1.0 - sparsity) ** x,
    "cubic": lambda x: 1.0 - sparsity + sparsity * (1.0 - x) ** 3,
    "linear": lambda x: 1.0 - sparsity * x,
  }
  density = shapes[rule.schedule]
  return (*(density((i + 1) / num_events) for i in range(num_events - 1)), 1.0 - sparsity)


def phase_shares(schedule: Schedule) -> tuple[float, float, float]:
  """Shares of the run's compute spent dense, pruning and recovering, after rounding.

  Dense: steps 0..start-1; pruning: start..end-1; recovery: the rest (the arithmetic of the authors' configs).
  """

  def compute(begin: int, stop: int) -> float:
    return math.sumprod(*_forward_densities(schedule, begin, stop))

  total = compute(0, schedule.steps)
  dense, pruning = compute(0, schedule.start), compute(schedule.start, schedule.end)
  return dense / total, pruning / total, 1.0 - (dense + pruning) / total


def _forward_densities(schedule: Schedule, begin: int, stop: int) -> tuple[list[float], list[int]]:
  """The densities that the forward passes of steps begin..stop-1 see, and the number of these steps that see each."""
  events = schedule.event_steps
  first = bisect.bisect_left(events, begin)
  last = max(first, bisect.bisect_left(events, stop - 1))
  bounds = [begin, *(event + 1 for event in events[first:last]), stop]
  return [1.0, *schedule.densities][first : last + 1], [b - a for a, b in itertools.pairwise(bounds)]
