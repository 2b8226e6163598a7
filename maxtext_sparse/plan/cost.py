"""What a run costs, and the figures of a planned run, from the event list that training follows.

Symbols: T steps, S final sparsity, B tokens of a step, D = B T, N prunable weights, N(t) those of them that are active in
the forward pass of step t, d(t) = N(t) / N.

Training costs 6 FLOPs for each weight and token: 2 forward (a multiplication and an addition) and 4 backward (the
gradients of inputs and weights). A run costs 6 B sum_t N(t) = 6 N_avg D *effective* FLOPs, and 6 N D *actual* FLOPs on
hardware that multiplies the zeros too. Both leave out:

- attention's products of activations: 12 x layers x hidden size x sequence length FLOPs a token, without causal masking.
  For the suite's 162m (12 layers, hidden size 768, 2,048 tokens) that is 0.23e9 a token beside 6 N = 0.83e9;
- the embedding, which is looked up, and the norms;
- the output head where it is not prunable (`prune_exclude`, tied embeddings). In the suite it is prunable and counted;
- what rematerialisation computes twice, up to another forward pass, 2 N D.

Serving costs 2 FLOPs for each weight and token.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from maxtext_sparse.config import parse_keys, SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.schedule import build_schedule, phase_shares, refuse_idle, Schedule

TRAINING_FLOPS = 6.0
SERVING_FLOPS = 2.0


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

  @functools.cached_property
  def average_density(self) -> float:
    return self.schedule.average_density()

  @functools.cached_property
  def active_sum(self) -> int | None:
    """sum_t N(t) from exact counts, None where N is not known."""
    return None if self.num_prunable is None else self.schedule.active_sum(self.steps, self.num_prunable)

  @property
  def average_params(self) -> float | None:
    """Mean over the steps of the active prunable weights."""
    return None if self.active_sum is None else self.active_sum / self.steps

  @property
  def compression_rate(self) -> float:
    """Average over final active parameters (paper section 7): how much smaller than its dense twin the model ends."""
    return self.average_density / self.schedule.final_density

  @property
  def effective_flops(self) -> float | None:
    """6 B sum_t N(t), the cost of the active weights (paper section 3); training logs it as `pruning/effective_flops`."""
    if self.active_sum is None or self.tokens_per_step is None:
      return None
    return training_flops(self.active_sum, self.tokens_per_step)

  @property
  def actual_flops(self) -> float | None:
    """6 N D, the cost on hardware that multiplies the zeros too."""
    if self.num_prunable is None or self.tokens is None:
      return None
    return training_flops(self.num_prunable, self.tokens)

  @property
  def overhead(self) -> float:
    """Actual over effective FLOPs, at most 1/(1-S) (paper section 7)."""
    return 1.0 / self.average_density

  def active(self, step: int) -> float:
    """N(t), the prunable weights in the forward pass of a step; d(t) where N is not known."""
    if self.num_prunable is None:
      return self.schedule.target_density(step - 1)
    return self.schedule.active(step, self.num_prunable)

  @functools.cached_property
  def _shares(self) -> tuple[float, float, float]:
    return phase_shares(self.schedule)

  def phases(self) -> tuple[Phase, Phase, Phase]:
    """Dense 0..start-1, pruning start..end-1, recovery end..T-1. The step of the last event begins the recovery."""
    schedule, final = self.schedule, self.schedule.final_density
    dense, pruning, recovery = self._shares
    return (
      Phase("dense", 0, schedule.start, dense, 1.0, 1.0),
      Phase("pruning", schedule.start, schedule.end, pruning, 1.0, final),
      Phase("recovery", schedule.end, schedule.steps, recovery, final, final),
    )

  def fractions(self) -> tuple[float, float, float]:
    """Shares of the three phases after rounding: of the compute or the steps, as `gmp_fraction_of` says."""
    if self.keys.gmp_fraction_of == "steps":
      dense, pruning, recovery = (phase.num_steps / self.steps for phase in self.phases())
      return dense, pruning, recovery
    return self._shares

  def to_dict(self) -> dict[str, Any]:
    """What `plan --json` prints. `effective_flops` is None unless both model and batch are known."""
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


def training_flops(num_weights: float, tokens: float) -> float:
  """6 N D: the cost of training N weights on D tokens. What it leaves out is at the top of this module."""
  return TRAINING_FLOPS * num_weights * tokens


def serving_flops(num_weights: float, tokens: float) -> float:
  """2 N D: the cost of serving D tokens with N weights (Sardana et al. 2024)."""
  return SERVING_FLOPS * num_weights * tokens


def tokens_per_step(flat: Mapping[str, Any], num_devices: int) -> int | None:
  """Tokens of a global batch, gradient accumulation included.

  MaxText rounds down to whole sequences in a micro batch over all devices: 0.5 sequences a device on 3 devices are one.

  Args:
    flat: a MaxText config with `per_device_batch_size` and `max_target_length`.
    num_devices: devices of the run.

  Returns:
    The tokens, or None where the batch ramps up and steps differ.

  Raises:
    ConfigError: the batch is less than one sequence.
  """
  if flat.get("enable_rampup_batch_size"):
    return None
  batch, accumulated = flat["per_device_batch_size"], flat.get("gradient_accumulation_steps", 1)
  sequences = int(num_devices * batch) * accumulated
  if sequences < 1:
    raise ConfigError(f"per_device_batch_size={batch}: less than one sequence a step on {num_devices} devices")
  return int(sequences * flat["max_target_length"])


def checked_keys(raw: Mapping[str, Any]) -> SparsityKeys:
  """The sparsity keys of a run that prunes.

  Raises:
    ConfigError: a value cannot work, or there is no pruning to plan.
  """
  keys = parse_keys(raw)
  if keys.pruning_method == "hold":
    raise ConfigError("pruning_method='hold': keeps the zeros that a checkpoint has, there is no schedule to plan")
  if not keys.is_active:
    raise ConfigError("sparsity=0: a dense run, there is nothing to plan; give --sparsity above 0 and below 1")
  return keys


def make_plan(
  keys: SparsityKeys, steps: int, num_prunable: int | None = None, tokens_per_step: int | None = None
) -> RunPlan:
  """Plans a run of `steps` steps whose model is not known.

  Raises:
    ConfigError: the events do not fit into the run, or the keys name parameters.
  """
  if keys.prune_groups:
    raise ConfigError("prune_groups: its patterns match paths of parameters, give the CONFIG of the model")
  schedule = build_schedule(keys, steps)
  if num_prunable is not None:
    refuse_idle(schedule, num_prunable)
  return RunPlan(keys, schedule, num_prunable, tokens_per_step)
