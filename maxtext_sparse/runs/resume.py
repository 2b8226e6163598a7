"""What a resume may change: the plan that a run follows when it goes on from a checkpoint."""

from collections.abc import Collection
import dataclasses

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.record import Plan

_ADVICE = "restore the old steps and sparsity keys, or set gmp_reschedule=True"
_MOST_NAMES = 3


def plan_to_follow(
  asked: Plan, recorded: Plan | None, start_step: int, num_nonzero: int, is_reschedule: bool = False
) -> Plan:
  """The plan of a run from `start_step` on.

  Args:
    asked: the plan that the keys give.
    recorded: the plan that the run began with; None for a new run, or a checkpoint without a record.
    start_step: the first step that this process trains; 0 in a new run.
    num_nonzero: prunable weights that are not zero in the state before that step.
    is_reschedule: `gmp_reschedule`, which allows another plan than the recorded one.

  Raises:
    ConfigError: the keys ask for another plan than the recorded one; says what differs.
  """
  if recorded is not None:
    if not recorded.shifts(asked):
      return dataclasses.replace(asked, begin_step=recorded.begin_step, begin_active=recorded.begin_active)
    if not is_reschedule:
      raise ConfigError(f"{_differences(recorded, asked)}; {_ADVICE}")
  if not asked.schedule.event_steps:  # hold: the zeros that are there count from now on
    return _from_now_on(asked, start_step, num_nonzero)
  if start_step == 0:
    return asked
  if recorded is not None:
    is_dense = not recorded.events_before(start_step)
    return _from_now_on(asked, start_step, recorded.begin_active if is_dense else num_nonzero)
  # A checkpoint without a record, a dense one for example. If it is as sparse as the schedule wants it, its events are
  # taken as done. Otherwise they were missed, and the next event catches up.
  due = asked.events_before(start_step)
  is_behind = bool(due) and num_nonzero > asked.keep_count(due[-1])
  return _from_now_on(asked, start_step, num_nonzero) if is_behind else asked


def refuse_dense_resume(recorded: Plan | None, is_reschedule: bool) -> None:
  """Refuses to go on with a sparse run without its mask, because the pruned weights would grow again.

  Raises:
    ConfigError: the run began sparse.
  """
  if recorded is not None and not is_reschedule:
    raise ConfigError(
      f"sparsity=0: this run began with {recorded.schedule.describe()} and would regrow what it pruned; restore its "
      "sparsity keys, or set pruning_method=hold and gmp_reschedule=True to keep the zeros, or gmp_reschedule=True"
    )


def _from_now_on(plan: Plan, step: int, num_active: int | None) -> Plan:
  return dataclasses.replace(plan, begin_step=step, begin_active=num_active)


def _differences(recorded: Plan, asked: Plan) -> str:
  """All that differs, the key to blame first."""
  parts = []
  old, new = recorded.schedule, asked.schedule
  if old.final_density != new.final_density and new.event_steps:
    parts.append(f"sparsity={_sparsity(new.final_density)}: this run began with sparsity={_sparsity(old.final_density)}")
  if set(recorded.prunable) != set(asked.prunable):
    parts.append(
      f"the set of pruned parameters: this run began with {len(recorded.prunable)}, the config asks for "
      f"{len(asked.prunable)}"
      + _names("no longer pruned", set(recorded.prunable) - set(asked.prunable))
      + _names("newly pruned", set(asked.prunable) - set(recorded.prunable))
    )
  elif recorded.prunable != asked.prunable:
    parts.append("the set of pruned parameters: the same ones in another order, the model was built differently")
  if recorded.differs_in_rules(asked):
    parts.append(f"pruning rules: this run began with {_rules(recorded)}, the config asks for {_rules(asked)}")
  if (old.event_steps, old.densities) != (new.event_steps, new.densities):
    parts.append(f"schedule: this run began with {old.describe()}, the config asks for {new.describe()}")
  return "; ".join(parts)


def _names(what: str, paths: Collection[str]) -> str:
  """', no longer pruned: a, b, c and 5 more'; empty if there are none."""
  if not paths:
    return ""
  more = f" and {len(paths) - _MOST_NAMES} more" if len(paths) > _MOST_NAMES else ""
  return f", {what}: {', '.join(sorted(paths)[:_MOST_NAMES])}{more}"


def _rules(plan: Plan) -> str:
  """The rules without their parameters where there is one alone."""
  return plan.rules[0].partition(":")[0] if len(plan.rules) == 1 else "; ".join(plan.rules)


def _sparsity(density: float) -> str:
  return f"{1 - density:.6g}"
