"""When weights are pruned and to which density: the arithmetic of a sparse run (paper section 3 and DESIGN of the suite).

Symbols: T steps, S final sparsity, P steps between events, d(t) density of the prunable weights in the forward pass of
step t, C = sum_t d(t) the run's compute in units of one dense step, f_d and f_p the shares of C spent dense and pruning.

An event at step t ranks the weights as they are before the update of step t and acts in that update, so the first
forward pass that sees it is t+1.
"""

import bisect
from collections.abc import Sequence
import dataclasses
import math

from maxtext_sparse.config import ConfigError, SparsityKeys


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The event list of one run.

  Attributes:
    steps: T, length of the run.
    event_steps: strictly increasing steps at which weights are pruned; empty for `hold`.
    densities: nominal density after each event; the last one is 1 - S.
    shape: `geometric`, `cubic`, `linear`, `one-shot` or `hold`.
  """

  steps: int
  event_steps: tuple[int, ...]
  densities: tuple[float, ...]
  shape: str = "geometric"

  def __post_init__(self):
    assert len(self.event_steps) == len(self.densities)
    assert all(a < b for a, b in zip(self.event_steps, self.event_steps[1:]))
    assert not self.event_steps or 0 <= self.event_steps[0] <= self.event_steps[-1] < self.steps

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
    return (
      f"{self.shape}, {len(self.event_steps)} events at {self.start}..{self.end} to density "
      f"{self.final_density:g} (steps={self.steps})"
    )

  def target_density(self, step: int) -> float:
    """Nominal density after the update of `step`, the one that step's checkpoint has."""
    index = bisect.bisect_right(self.event_steps, step) - 1
    return self.densities[index] if index >= 0 else 1.0

  def is_event(self, step: int) -> bool:
    index = bisect.bisect_left(self.event_steps, step)
    return index < len(self.event_steps) and self.event_steps[index] == step

  def keep_counts(self, num_prunable: int) -> tuple[int, ...]:
    """Exact number of weights kept after each event."""
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


def keep_count(density: float, num_prunable: int) -> int:
  """Number of weights that a density stands for."""
  # 1 - (1 - S) is S up to the last bit, which decides where S * N ends in a half.
  sparsity = round(1.0 - density, 15)
  return num_prunable - round(sparsity * num_prunable)


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
  """
  pruning_steps = prune_fraction / mean_density_while_pruning(shape, sparsity) if prune_fraction else 0.0
  recovery = max(0.0, 1.0 - dense_fraction - prune_fraction)
  return 1.0 / (dense_fraction + pruning_steps + recovery / (1.0 - sparsity))


def build_schedule(keys: SparsityKeys, steps: int) -> Schedule:
  """The event list that the keys ask for in a run of `steps` steps.

  Raises:
    ConfigError: the events do not fit into the run.
  """
  if steps < 1:
    raise ConfigError(f"steps={steps}: must be a positive number of steps")
  if keys.pruning_method == "hold":
    return Schedule(steps, (), (), "hold")
  one_shot = keys.pruning_method == "one-shot"
  if keys.gmp_start_step >= 0:
    start, end = keys.gmp_start_step, keys.gmp_end_step
    _check_inside_run(keys, start, end, steps)
  else:
    start, end = derive_bounds(keys, steps)
  last = steps - 1
  if start > last:
    raise ConfigError(f"steps={steps}: the first event would be at step {start}, the last step is {last}")
  if one_shot:
    return Schedule(steps, (start,), (1.0 - keys.sparsity,), "one-shot")
  event_steps = tuple(range(start, min(end, last) + 1, keys.gmp_pruning_frequency))
  return Schedule(steps, event_steps, _densities(keys, len(event_steps)), keys.pruning_schedule)


def derive_bounds(keys: SparsityKeys, steps: int) -> tuple[int, int]:
  """First and last event step from the two fractions, rounded to the pruning frequency."""
  f_d, f_p, sparsity = keys.gmp_dense_fraction, keys.gmp_prune_fraction, keys.sparsity
  one_shot = keys.pruning_method == "one-shot"
  if one_shot:
    f_p = 0.0
  if keys.gmp_fraction_of == "steps":
    start, length = f_d * steps, f_p * steps
  else:
    # start = f_d * avg * T steps are dense; pruning takes f_p * avg * T / m steps.
    shape = keys.pruning_schedule
    compute = average_density_limit(shape, sparsity, f_d, f_p) * steps
    start, length = f_d * compute, f_p * compute / mean_density_while_pruning(shape, sparsity)
  period = keys.gmp_pruning_frequency
  if length < period and not one_shot:
    raise ConfigError(
      f"gmp_pruning_frequency={period}: longer than the pruning phase of {length:.0f} steps "
      f"(steps={steps}), must be at most {max(1, int(length))}"
    )
  first = round(start / period) * period
  return first, max(first, round((start + length) / period) * period)


def _check_inside_run(keys: SparsityKeys, start: int, end: int, steps: int) -> None:
  if start >= steps:
    raise ConfigError(f"gmp_start_step={start}: beyond the run, must be at most steps-1={steps - 1}")
  if end > steps:
    raise ConfigError(f"gmp_end_step={end}: beyond the run, must be at most steps={steps}")


def _densities(keys: SparsityKeys, num_events: int) -> tuple[float, ...]:
  """Density after event i of n, x = (i+1)/n.

  geometric (1-S)^x, a fixed fraction of the remaining weights each time (paper section 3);
  cubic 1 - S + S (1-x)^3 (Zhu & Gupta 2017, eq. 1); linear 1 - S x.
  """
  sparsity = keys.sparsity
  shapes = {
    "geometric": lambda x: (1.0 - sparsity) ** x,
    "cubic": lambda x: 1.0 - sparsity + sparsity * (1.0 - x) ** 3,
    "linear": lambda x: 1.0 - sparsity * x,
  }
  density = shapes[keys.pruning_schedule]
  return (*(density((i + 1) / num_events) for i in range(num_events - 1)), 1.0 - sparsity)


def phase_shares(schedule: Schedule) -> tuple[float, float, float]:
  """Shares of the run's compute spent dense, pruning and recovering, after rounding.

  Dense: steps 0..start-1; pruning: start..end-1; recovery: the rest (the arithmetic of the authors' configs).
  """

  def compute(begin: int, stop: int) -> float:
    return math.fsum(_forward_densities(schedule, begin, stop))

  total = compute(0, schedule.steps)
  dense, pruning = compute(0, schedule.start), compute(schedule.start, schedule.end)
  return dense / total, pruning / total, 1.0 - (dense + pruning) / total


def _forward_densities(schedule: Schedule, begin: int, stop: int) -> Sequence[float]:
  return [1.0 if t == 0 else schedule.target_density(t - 1) for t in range(begin, stop)]
