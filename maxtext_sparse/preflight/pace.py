"""From the time of a step to the hours and the price of a run.

A sparse run takes in each step the time of a dense step and that of the gradient mask, and at each event that of the
event. With T steps and n events:

  hours = (T (dense + mask) + n event) / 3600,   chip-hours = hours x chips,   dollars = chip-hours x price

Example: 0.5 s a step, 1 ms for the mask, 0.1 s an event, 10,000 steps and 50 events on 64 chips are 5,015 s, 1.39 hours
or 89.2 chip-hours.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Pace:
  """How fast a run trains.

  Attributes:
    dense: seconds of a step without pruning.
    mask: seconds that the gradient mask adds to each step.
    event: seconds that a pruning event adds to its step.
    tokens_per_step: of all chips.
    num_chips: chips of the run.
  """

  dense: float
  mask: float
  event: float
  tokens_per_step: int
  num_chips: int

  @property
  def between_events(self) -> float:
    """Seconds of a step of a sparse run without an event."""
    return self.dense + self.mask

  def amortised(self, frequency: int) -> float:
    """Mean seconds of a step over one period of P steps."""
    return self.between_events + self.event / frequency

  def overhead(self, frequency: int) -> float:
    """What sparsity adds, as a share of a dense step."""
    return (self.mask + self.event / frequency) / self.dense

  def tokens_per_second_per_chip(self, seconds: float) -> float:
    return self.tokens_per_step / seconds / self.num_chips

  def cost(self, steps: int, num_events: int | None, price: float | None = None) -> "RunCost":
    """What some steps cost.

    Args:
      steps: how many.
      num_events: pruning events among them; None for a dense run, which has no mask either.
      price: dollars of a chip-hour.
    """
    seconds = steps * self.dense if num_events is None else steps * self.between_events + num_events * self.event
    hours = seconds / 3600
    return RunCost(hours, hours * self.num_chips, None if price is None else hours * self.num_chips * price)


@dataclasses.dataclass(frozen=True)
class RunCost:
  """What some training costs; `dollars` is None where no price is known."""

  hours: float
  chip_hours: float
  dollars: float | None = None

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  def describe(self) -> str:
    """In words, such as 1.4 hours, 89 chip-hours, $107."""
    dollars = "" if self.dollars is None else f", ${self.dollars:,.{0 if self.dollars >= 100 else 2}f}"
    return f"{self.hours:,.4g} hours, {self.chip_hours:,.4g} chip-hours{dollars}"


def total(costs: Sequence[RunCost]) -> RunCost:
  """The sum of several costs, which all have a price or all have none."""
  dollars = [cost.dollars for cost in costs if cost.dollars is not None]
  hours, chip_hours = (sum(getattr(cost, name) for cost in costs) for name in ("hours", "chip_hours"))
  return RunCost(hours, chip_hours, sum(dollars) if dollars else None)
