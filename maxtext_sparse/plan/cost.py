"""The figures of a planned run, from the event list that training follows.

Symbols: T steps, S final sparsity, B tokens a step, N prunable weights, d(t) their density in the forward pass of step t.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from maxtext_sparse.config import ConfigError, parse_keys, SparsityKeys
from maxtext_sparse.schedule import build_schedule, phase_shares, Schedule


@dataclasses.dataclass(frozen=True)
class Phase:
  """One of the three phases (paper section 3).

  Attributes:
    name: `dense`, `pruning` or `recovery`.
    begin: first step.
    stop: step after the last one.
    compute_share: share of sum_t d(t) spent in it.
    begin_density: density that it begins with.
    end_density: density that it leaves behind.
  """

  name: str
  begin: int
  stop: int
  compute_share: float
  begin_density: float
  end_density: float

  @property
  def num_steps(self) -> int:
    return self.stop - self.begin


@dataclasses.dataclass(frozen=True)
class RunPlan:
  """A planned run.

  Attributes:
    keys: the sparsity keys it follows.
    schedule: its event list.
    num_prunable: N, None if the model is not known.
    tokens_per_step: B, None if the batch is not known or not constant.
  """

  keys: SparsityKeys
  schedule: Schedule
  num_prunable: int | None = None
  tokens_per_step: int | None = None

  @property
  def steps(self) -> int:
    return self.schedule.steps

  @property
  def tokens(self) -> int | None:
    return None if self.tokens_per_step is None else self.tokens_per_step * self.steps

  @property
  def average_density(self) -> float:
    return self.schedule.average_density()

  @property
  def average_params(self) -> float | None:
    """Mean over the steps of the active prunable weights, from exact counts."""
    if self.num_prunable is None:
      return None
    return self.schedule.active_sum(self.steps, self.num_prunable) / self.steps

  @property
  def compression_rate(self) -> float:
    """Average over final active parameters (paper section 7): how much smaller than its dense twin the model ends."""
    return self.average_density / self.schedule.final_density

  @property
  def effective_flops(self) -> float | None:
    """6 B sum_t N(t): six FLOPs a token and active weight (paper section 3)."""
    return effective_flops(self.schedule, self.num_prunable, self.tokens_per_step)

  @property
  def actual_flops(self) -> float | None:
    """6 B N T: the hardware multiplies the zeros too."""
    if self.num_prunable is None or self.tokens is None:
      return None
    return 6.0 * self.num_prunable * self.tokens

  @property
  def overhead(self) -> float:
    """Actual over effective FLOPs, 1/(1-S) at most (paper section 7)."""
    return 1.0 / self.average_density

  def active(self, step: int) -> float:
    """N(t), prunable weights in the forward pass of a step; their density where N is not known."""
    if self.num_prunable is None:
      return self.schedule.target_density(step - 1)
    return self.schedule.active_sum(step + 1, self.num_prunable) - self.schedule.active_sum(step, self.num_prunable)

  def phases(self) -> tuple[Phase, Phase, Phase]:
    """Dense 0..start-1, pruning start..end-1, recovery end..T-1; the last event belongs to the pruning phase."""
    schedule, final = self.schedule, self.schedule.final_density
    dense, pruning, recovery = phase_shares(schedule)
    return (
      Phase("dense", 0, schedule.start, dense, 1.0, 1.0),
      Phase("pruning", schedule.start, schedule.end, pruning, 1.0, final),
      Phase("recovery", schedule.end, schedule.steps, recovery, final, final),
    )

  def fractions(self) -> tuple[float, float, float]:
    """Shares of the three phases after rounding, of what `gmp_fraction_of` names."""
    if self.keys.gmp_fraction_of == "steps":
      dense, pruning, recovery = (phase.num_steps / self.steps for phase in self.phases())
      return dense, pruning, recovery
    return phase_shares(self.schedule)

  def to_dict(self) -> dict[str, Any]:
    """The contract's keys; `effective_flops` is None unless both model and batch are known."""
    dense, pruning, recovery = self.fractions()
    return {
      "gmp_start_step": self.schedule.start,
      "gmp_end_step": self.schedule.end,
      "num_pruning_events": len(self.schedule.event_steps),
      "average_density": self.average_density,
      "final_density": round(self.schedule.final_density, 12),  # 1 - 0.8 is 0.19999999999999996
      "dense_fraction": dense,
      "prune_fraction": pruning,
      "recovery_fraction": recovery,
      "effective_flops": self.effective_flops,
    }


def effective_flops(schedule: Schedule, num_prunable: int | None, tokens_per_step: int | None) -> float | None:
  """6 B sum_t N(t), the figure that training logs as `pruning/effective_flops` at its last step."""
  if num_prunable is None or tokens_per_step is None:
    return None
  return 6.0 * tokens_per_step * schedule.active_sum(schedule.steps, num_prunable)


def checked_keys(raw: Mapping[str, Any]) -> SparsityKeys:
  """The sparsity keys of a run that prunes.

  Raises:
    ConfigError: a value cannot work, or there is no pruning to plan.
  """
  keys = parse_keys(raw)
  if keys.pruning_method == "hold":
    raise ConfigError("pruning_method='hold': keeps the zeros that a checkpoint has, there is no schedule to plan")
  if keys.sparsity == 0.0:
    raise ConfigError("sparsity=0: a dense run, there is nothing to plan; give --sparsity above 0 and below 1")
  return keys


def make_report(
  keys: SparsityKeys, steps: int, num_prunable: int | None = None, tokens_per_step: int | None = None
) -> RunPlan:
  """Plans a run of `steps` steps.

  Raises:
    ConfigError: the events do not fit into the run.
  """
  return RunPlan(keys, build_schedule(keys, steps), num_prunable, tokens_per_step)
