"""What a run prunes: its parameters in groups that follow one rule each, and exact counts for every event."""

from collections.abc import Sequence
import dataclasses
import functools

from maxtext_sparse.config import SparsityKeys
from maxtext_sparse.pruning.prunable import Parameter, rule_index, select_prunable
from maxtext_sparse.pruning.quotas import Quotas, quotas, rule_quotas
from maxtext_sparse.pruning.structures import check_fits
from maxtext_sparse.rules import PruningRule
from maxtext_sparse.schedule import build_schedule, refuse_idle, Schedule


@dataclasses.dataclass(frozen=True)
class Group:
  """Parameters that follow one rule.

  Attributes:
    rule: how they are pruned.
    parameters: which they are, in the order of the model.
    quotas: weights that they keep after each event: one number under scope `global`, else one for each parameter.
  """

  rule: PruningRule
  parameters: tuple[Parameter, ...]
  quotas: Quotas


@dataclasses.dataclass(frozen=True)
class PruningPlan:
  """All that a run prunes, and when.

  Attributes:
    schedule: the events, with exact totals.
    groups: which parameters follow which rule; empty rules are left out.
  """

  schedule: Schedule
  groups: tuple[Group, ...]

  @functools.cached_property
  def parameters(self) -> tuple[Parameter, ...]:
    return tuple(parameter for group in self.groups for parameter in group.parameters)

  @functools.cached_property
  def paths(self) -> frozenset[str]:
    return frozenset(parameter.path for parameter in self.parameters)

  @property
  def num_prunable(self) -> int:
    return sum(parameter.size for parameter in self.parameters)

  def is_prunable(self, path: str) -> bool:
    """Whether the parameter at a `/`-joined path is pruned."""
    return path in self.paths

  def describe(self) -> tuple[str, ...]:
    """One phrase for each group: its rule and its parameters."""
    return tuple(f"{group.rule.describe()}: {', '.join(p.path for p in group.parameters)}" for group in self.groups)


def plan_pruning(
  keys: SparsityKeys, parameters: Sequence[Parameter], steps: int, trainable_patterns: Sequence[str] = ()
) -> PruningPlan:
  """The plan that the keys ask for on a model.

  Args:
    keys: the sparsity keys.
    parameters: every parameter of the model.
    steps: T.
    trainable_patterns: MaxText's `trainable_parameters_mask`; what it freezes is not pruned.

  Raises:
    ConfigError: the keys fit neither the model nor the run.
  """
  prunable = select_prunable(parameters, keys, trainable_patterns)
  if keys.pruning_method == "hold":
    return PruningPlan(build_schedule(keys, steps), (Group(keys.rule, prunable, ()),))
  members = [[p for p in prunable if rule_index(keys, p.path) == index] for index in range(len(keys.rules))]
  schedule = build_schedule(keys, steps, [sum(p.size for p in chosen) for chosen in members])
  groups = [
    Group(rule, tuple(chosen), rule_quotas(rule, chosen, len(schedule.event_steps)))
    for (_, rule), chosen in zip(keys.rules, members)
    if chosen
  ]
  plan = _checked(schedule, groups)
  refuse_idle(plan.schedule, plan.num_prunable)
  return plan


def plan_for_schedule(schedule: Schedule, rule: PruningRule, parameters: Sequence[Parameter]) -> PruningPlan:
  """A plan with one rule, whose densities are a schedule's own.

  Raises:
    ConfigError: the rule's structure does not fit the parameters.
  """
  group = Group(rule, tuple(parameters), quotas(rule, parameters, schedule.densities))
  return _checked(schedule, [group])


def _checked(schedule: Schedule, groups: Sequence[Group]) -> PruningPlan:
  for group in groups:
    if group.rule.structure is not None:
      for parameter in group.parameters:
        check_fits(group.rule.structure, parameter)
  kept = tuple(sum(sum(group.quotas[event]) for group in groups) for event in range(len(schedule.event_steps)))
  return PruningPlan(dataclasses.replace(schedule, kept=kept), tuple(groups))
