"""The host's view of a sparse run: metrics from exact counts, warnings, records, and the checks that stop a bad run."""

from collections.abc import Sequence
import logging

import jax

from maxtext_sparse.errors import RunError, StoppedError
from maxtext_sparse.pruning.census import Census, PendingCensus, prunable_weights
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.runs.record import Plan, RunRecord, thin_matrices

logger = logging.getLogger("maxtext_sparse")

# Ties beyond 2^32 weights and exact zeros at initialisation may miss a target by this share of the weights.
_TOLERANCE = 1e-6


class Monitor:
  """Follows one run from its first step in this process to its last."""

  def __init__(self, plan: Plan, parameters: Sequence[Parameter], record: RunRecord, tokens_per_step: int | None):
    self.plan = plan
    self._parameters = tuple(parameters)
    self._record = record
    self._tokens_per_step = tokens_per_step
    self._pending: dict[int, PendingCensus] = {}
    self._known_thin: set[str] = set()
    self._latest: Census | None = None
    self._threshold: float | None = 0.0
    self._last_step = -1
    self._stop_reason: str | None = None

  def begin(self, start_step: int, census: Census) -> None:
    """Checks the state that the run starts from.

    Raises:
      RunError: a weight is not finite, or the schedule is over and the density still above its target.
    """
    self._refuse_nonfinite(start_step, census)
    schedule = self.plan.schedule
    if schedule.event_steps and start_step > schedule.end:
      keep = schedule.keep_counts(self.plan.num_prunable)[-1]
      if census.total_nonzero > keep + _TOLERANCE * self.plan.num_prunable:
        raise RunError(
          f"step {start_step}: density {census.total_nonzero / self.plan.num_prunable:.6f} is above the target "
          f"{schedule.final_density:g} and the last event, step {schedule.end}, is over; extend gmp_end_step or "
          "resume an earlier checkpoint"
        )
    past = [event for event in schedule.event_steps if event < start_step]
    self._record.drop_events(start_step)
    self._latest = census
    self._last_step = start_step - 1
    last_event = self._record.read_event(past[-1]) if past else None
    if last_event is not None:
      self._threshold = last_event["threshold"]
    elif past and past[-1] >= self.plan.begin_step:
      # Killed after a checkpoint and before the event's record: the threshold is lost, the counts are not, since the
      # mask of the restored state is still that of its last event.
      self._threshold = None
      self._settle_event(past[-1], census)

  def observe(self, step: int, state) -> None:
    """Called after the update of every step with the new model state; starts a census where one is due."""
    self._last_step = step
    if self.plan.schedule.is_event(step) or step == self.plan.schedule.steps - 1:
      self._pending[step] = PendingCensus(self._parameters, prunable_weights(state, self._parameters))

  def metrics(self, step: int, threshold: jax.Array | None = None) -> dict[str, float]:
    """The `pruning/*` scalars after the update of `step`.

    Raises:
      RunError: a weight was not finite at an event.
    """
    self._settle(step, threshold)
    assert self._latest is not None, "begin comes first"
    plan, num_steps = self.plan, step + 1
    active_sum = plan.schedule.active_sum(num_steps, plan.num_prunable, plan.begin_step, plan.begin_active)
    scalars = {
      "pruning/prunable": plan.num_prunable,
      "pruning/nonzero_prunable": self._latest.total_nonzero,
      "pruning/density": self._latest.total_nonzero / plan.num_prunable,
      "pruning/target_density": plan.schedule.target_density(step),
      "pruning/threshold": self._threshold or 0.0,
      "pruning/average_params": active_sum / num_steps,
      "pruning/min_matrix_density": min(self._latest.densities.values()),
    }
    if self._tokens_per_step is not None:
      scalars["pruning/effective_flops"] = 6.0 * self._tokens_per_step * active_sum
    return scalars

  def stop(self, reason: str) -> None:
    """Notes why MaxText ends the run early."""
    self._stop_reason = reason

  def finish(self) -> None:
    """Checks that the run reached its last step, and its target.

    Raises:
      StoppedError: it was stopped from outside.
      RunError: it did not.
    """
    schedule = self.plan.schedule
    if self._last_step < schedule.steps - 1:
      stopped = f"steps={schedule.steps}: training stopped after step {self._last_step}, before the schedule was over"
      if self._stop_reason:
        raise StoppedError(f"{stopped} ({self._stop_reason}); start it again with the same run_name to go on")
      raise RunError(f"{stopped}; give it more data (or num_epoch) and resume")
    self._settle(self._last_step, None)
    assert self._latest is not None
    if schedule.event_steps:
      keep = schedule.keep_counts(self.plan.num_prunable)[-1]
      if self._latest.total_nonzero > keep + _TOLERANCE * self.plan.num_prunable:
        raise RunError(
          f"sparsity={1 - schedule.final_density:g}: {self._latest.total_nonzero} weights are left, the target is {keep}"
        )

  def _settle(self, step: int, threshold: jax.Array | None) -> None:
    """Reads the censuses up to `step`, which the devices have finished by now."""
    for due in sorted(s for s in self._pending if s <= step):
      census = self._pending.pop(due).result()
      self._refuse_nonfinite(due, census)
      self._latest = census
      if self.plan.schedule.is_event(due):
        self._threshold = float(threshold) if threshold is not None and due == step else self._threshold
        self._settle_event(due, census)

  def _settle_event(self, step: int, census: Census) -> None:
    densities = census.densities
    self._record.write_event(
      step,
      {
        "density": census.total_nonzero / self.plan.num_prunable,
        "target_density": self.plan.schedule.target_density(step),
        "nonzero_prunable": census.total_nonzero,
        "threshold": self._threshold,
        "matrices": densities,
      },
    )
    thin = [name for name in thin_matrices(densities) if name not in self._known_thin]
    self._known_thin.update(thin)
    if thin:
      shown = ", ".join(f"{name} {densities[name]:.2%}" for name in thin[:8])
      more = f" and {len(thin) - 8} more" if len(thin) > 8 else ""
      logger.warning("pruning event at step %d left under 1 %% of: %s%s", step, shown, more)

  def _refuse_nonfinite(self, step: int, census: Census) -> None:
    if census.broken:
      raise RunError(
        f"step {step}: weights are not finite in {', '.join(census.broken[:4])}; the mask was left unchanged"
      )
