"""The host's view of a sparse run: exact counts, metrics, records, warnings, and the checks that stop a bad run.

A census counts the live weights of each matrix right after the update of an event step. Between two events no count
changes: the mask stays, and a live weight never becomes zero. So one census for each event gives every step's figures
(`runs.active`).

MaxText calls us twice in a step: `observe` with the new state, before the next step overwrites it, and about one step
later `settle` and `scalars`, when it writes the metrics. The counts stay on the devices in the meantime, so that the host
does not wait for them.
"""

from collections.abc import Sequence
import dataclasses
import logging
from typing import Any

import jax

from maxtext_sparse.errors import RunError, StoppedError
from maxtext_sparse.pruning.census import Census, PendingCensus, prunable_weights
from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.runs.active import active_sum, ActiveSum
from maxtext_sparse.runs.record import Plan, RunRecord

logger = logging.getLogger("maxtext_sparse")

# Ties beyond 2^32 weights and exact zeros at initialisation may miss a target by this share of the weights.
_TOLERANCE = 1e-6
# A matrix with fewer of its weights left is worth a warning.
_THIN = 0.01
# MaxText writes the metrics of a step while the next one runs. A few steps more than that are kept.
_MOST_COUNTS = 4


@dataclasses.dataclass(frozen=True)
class Counts:
  """What is known of the state after the update of a step.

  Attributes:
    step: the step; this holds until the next event.
    census: live weights of each matrix.
    threshold: magnitude below which the last event pruned. 0 before the first event, None if a kill took it.
    active_sum: active weights of the forward passes so far.
  """

  step: int
  census: Census
  threshold: float | None
  active_sum: ActiveSum


class Monitor:
  """Follows one run from its first step in this process to its last."""

  def __init__(self, plan: Plan, parameters: Sequence[Parameter], record: RunRecord, tokens_per_step: int | None):
    """Makes a monitor; `begin` comes before anything else.

    Args:
      plan: what the run prunes, and when.
      parameters: the arrays that are pruned.
      record: the run's folder of records.
      tokens_per_step: tokens in a global batch; None if the batch size changes during the run.
    """
    self.plan = plan
    self._parameters = tuple(parameters)
    self._record = record
    self._tokens_per_step = tokens_per_step
    self._pending: dict[int, PendingCensus] = {}
    self._counts: list[Counts] = []  # in the order of steps, the latest few
    self._known_thin: set[str] = set()
    self._last_step = -1
    self._stop_reason: str | None = None

  def begin(self, start_step: int, census: Census) -> None:
    """Checks the state that the run starts from, and reads the past events from the record.

    Args:
      start_step: the first step that this process trains.
      census: of the state before that step.

    Raises:
      RunError: a weight is not finite, or the schedule is over and the density still above its target.
      ConfigError: the record is damaged.
    """
    self._refuse_nonfinite(start_step, census)
    if self.plan.schedule.event_steps and start_step > self.plan.schedule.end:
      self._refuse_dense_end(start_step, census)
    for name in self._record.foreign_files():
      logger.warning("%s: not a file of this run, it is left alone", self._record.directory / name)
    self._record.drop_events(start_step)
    self._last_step = start_step - 1
    self._counts = [self._recorded_counts(start_step, census)]

  def observe(self, step: int, state: Any) -> None:
    """Starts a census of the new model state if one is due. Called after the update of every step, before it is saved.

    Raises:
      RunError: a weight was not finite at an earlier event.
    """
    self._last_step = step
    if not self.plan.schedule.is_event(step) and step != self.plan.schedule.steps - 1:
      return
    # A resume reads the count of the last event from the restored mask, but not that of the event before it. This one
    # must be on disk before the checkpoint of this step is. It always is, unless events are one step apart.
    self._settle_censuses(step - 1)
    self._pending[step] = PendingCensus(self._parameters, prunable_weights(state, self._parameters))

  def settle(self, step: int, threshold: jax.Array | None = None) -> None:
    """Reads the counts up to `step`, which the devices have finished by now, and writes the records of new events.

    Args:
      step: the step whose metrics are about to be written.
      threshold: that step's threshold as the train step returned it.

    Raises:
      RunError: a weight was not finite at an event.
    """
    self._settle_censuses(step, threshold)
    latest = self._counts[-1]
    # Where events are one step apart, `observe` read the count before the threshold was known.
    is_incomplete = latest.step == step and latest.threshold is None and self.plan.schedule.is_event(step)
    if is_incomplete and threshold is not None:
      self._counts[-1] = dataclasses.replace(latest, threshold=float(threshold))
      self._write_event(self._counts[-1])

  def scalars(self, step: int) -> dict[str, float]:
    """The `pruning/*` metrics after the update of `step`; `settle(step)` comes first. Changes nothing.

    `average_params` is the mean over steps of the prunable weights that were active in the forward pass, and
    `effective_flops` is 6 x their sum x tokens per step. Both are exact sums of counted weights; before the first event
    all prunable weights are active, also those that happen to be 0 then. There is one exception: the steps before this
    record began. A run that goes on from a checkpoint without its record of events counts these steps as scheduled, or,
    if the checkpoint is not as sparse as scheduled, as dense as the checkpoint is.
    """
    known = next(counts for counts in reversed(self._counts) if counts.step <= step)
    total = known.active_sum.over(step + 1)
    num_nonzero, num_prunable = known.census.total_nonzero, self.plan.num_prunable
    scalars = {
      "pruning/prunable": num_prunable,
      "pruning/nonzero_prunable": num_nonzero,
      "pruning/density": num_nonzero / num_prunable,
      "pruning/target_density": self.plan.schedule.target_density(step),
      "pruning/threshold": known.threshold or 0.0,
      "pruning/average_params": total / (step + 1),
      "pruning/min_matrix_density": min(known.census.densities.values()),
    }
    if self._tokens_per_step is not None:
      scalars["pruning/effective_flops"] = 6.0 * self._tokens_per_step * total
    return scalars

  def stop(self, reason: str) -> None:
    """Notes why MaxText ends the run early."""
    self._stop_reason = reason

  def finish(self) -> None:
    """Checks that the run reached its last step and its target.

    Raises:
      StoppedError: it was stopped from outside.
      RunError: it did not reach them.
    """
    schedule = self.plan.schedule
    if self._last_step < schedule.steps - 1:
      stopped = f"steps={schedule.steps}: training stopped after step {self._last_step}, before the schedule was over"
      if self._stop_reason:
        raise StoppedError(f"{stopped} ({self._stop_reason}); start it again with the same run_name to go on")
      raise RunError(f"{stopped}; give it more data (or num_epoch) and resume")
    self.settle(self._last_step)
    num_left = self._counts[-1].census.total_nonzero
    if schedule.event_steps and self._is_too_dense(num_left):
      raise RunError(
        f"sparsity={1 - schedule.final_density:g}: {num_left} weights are left, the target is "
        f"{self.plan.keep_count(schedule.end)}"
      )

  def _recorded_counts(self, start_step: int, census: Census) -> Counts:
    """The counts before `start_step`, as a run without interruption would have them."""
    event, past = self._record.last_event(start_step), self.plan.events_before(start_step)
    if not past or (event is not None and event["step"] >= past[-1] and "active_sum" in event):
      threshold = event["threshold"] if event is not None else 0.0
      return Counts(start_step - 1, census, threshold, active_sum(self.plan, self._record, start_step))
    # The run was killed after it saved a checkpoint and before it wrote the record of its last event. The mask of the
    # restored state is still that of this event, so its counts are known. Its threshold is gone, unless an older version
    # wrote the record.
    threshold = event["threshold"] if event is not None and event["step"] == past[-1] else None
    summed = active_sum(self.plan, self._record, past[-1]).after_event(past[-1], census.total_nonzero)
    counts = Counts(past[-1], census, threshold, summed)
    self._write_event(counts)
    return counts

  def _settle_censuses(self, step: int, threshold: jax.Array | None = None) -> None:
    for due in sorted(s for s in self._pending if s <= step):
      census, latest = self._pending.pop(due).result(), self._counts[-1]
      if self.plan.schedule.is_event(due):
        found = float(threshold) if threshold is not None and due == step else None
        latest = Counts(due, census, found, latest.active_sum.after_event(due, census.total_nonzero))
        self._write_event(latest)
        self._warn(latest)
      self._refuse_nonfinite(due, census)
      self._counts.append(dataclasses.replace(latest, step=due, census=census))
    del self._counts[:-_MOST_COUNTS]

  def _write_event(self, counts: Counts) -> None:
    census = counts.census
    event = {
      "density": census.total_nonzero / self.plan.num_prunable,
      "target_density": self.plan.schedule.target_density(counts.step),
      "nonzero_prunable": census.total_nonzero,
      "target_nonzero_prunable": self.plan.keep_count(counts.step),
      "active_sum": counts.active_sum.total,
      "threshold": counts.threshold,
      "matrices": census.densities,
    }
    if census.broken:  # then the event pruned nothing
      event["nonfinite"] = {name: census.nonfinite[name] for name in census.broken}
    self._record.write_event(counts.step, event)

  def _warn(self, counts: Counts) -> None:
    target, num_left = self.plan.keep_count(counts.step), counts.census.total_nonzero
    if abs(num_left - target) > _TOLERANCE * self.plan.num_prunable:
      logger.warning(
        "pruning event at step %d left %d weights, the schedule asks for %d; averages count what is left",
        *(counts.step, num_left, target),
      )
    densities = counts.census.densities
    thin = sorted((d, name) for name, d in densities.items() if d < _THIN and name not in self._known_thin)
    self._known_thin.update(name for _, name in thin)
    if thin:
      shown = ", ".join(f"{name} {density:.2%}" for density, name in thin[:8])
      more = f" and {len(thin) - 8} more" if len(thin) > 8 else ""
      logger.warning("pruning event at step %d left under 1 %% of: %s%s", counts.step, shown, more)

  def _refuse_nonfinite(self, step: int, census: Census) -> None:
    if census.broken:
      raise RunError(
        f"step {step}: weights are not finite in {', '.join(census.broken[:4])}; the mask was left unchanged"
      )

  def _refuse_dense_end(self, start_step: int, census: Census) -> None:
    """Refuses a state after the last event that is denser than the target, because no event would prune it."""
    schedule = self.plan.schedule
    if self._is_too_dense(census.total_nonzero):
      raise RunError(
        f"step {start_step}: density {census.total_nonzero / self.plan.num_prunable:.6f} is above the target "
        f"{schedule.final_density:g} and the last event, step {schedule.end}, is over; extend gmp_end_step or "
        "resume an earlier checkpoint"
      )

  def _is_too_dense(self, num_nonzero: int) -> bool:
    return num_nonzero > self.plan.keep_count(self.plan.schedule.end) + _TOLERANCE * self.plan.num_prunable
