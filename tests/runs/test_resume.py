"""Which plan a run follows when it goes on, and what it says if the keys ask for another one."""

import dataclasses

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.record import Plan
from maxtext_sparse.runs.resume import plan_to_follow, refuse_dense_resume
from maxtext_sparse.schedule import Schedule

NAMES = tuple(f"layers/{name}/kernel" for name in ("key", "out", "query", "value", "wi_0", "wi_1"))
SCHEDULE = Schedule(12, (3, 6), (0.5, 0.2))
PLAN = Plan(SCHEDULE, NAMES, 100)
HOLD = Plan(Schedule(12, (), (), "hold"), NAMES, 100)


def other(densities=(0.5, 0.2), events=(3, 6), prunable=NAMES) -> Plan:
  return Plan(Schedule(12, events, densities), prunable, 100)


def refusal(asked: Plan, recorded: Plan = PLAN) -> str:
  with pytest.raises(ConfigError) as error:
    plan_to_follow(asked, recorded, start_step=5, num_nonzero=50)
  assert "\n" not in str(error.value)
  assert str(error.value).endswith("; restore the old steps and sparsity keys, or set gmp_reschedule=True")
  return str(error.value)


def test_another_sparsity_is_called_sparsity():
  told = refusal(other((0.5, 0.4)))
  assert told.startswith(
    "sparsity=0.6: this run began with sparsity=0.8; schedule: this run began with geometric, 2 events"
  )


def test_another_set_of_parameters_names_the_first_differences():
  told = refusal(other(prunable=("head/kernel", "layers/wi_1/kernel")))
  assert told.startswith(
    "the set of pruned parameters: this run began with 6, the config asks for 2, no longer pruned: layers/key/kernel, "
    "layers/out/kernel, layers/query/kernel and 2 more, newly pruned: head/kernel; restore"
  )


def test_other_events_show_both_schedules():
  told = refusal(other(events=(3, 9)))
  assert told.startswith(
    "schedule: this run began with geometric, 2 events at 3..6 to density 0.2 (steps=12), the config "
  )
  assert "2 events at 3..9" in told and "sparsity=" not in told


def test_other_rules_are_told_with_their_parameters_where_there_are_several():
  by = lambda *rules: dataclasses.replace(PLAN, rules=rules)
  told = refusal(by("80 % per_matrix: layers/key/kernel"), by("80 % global: layers/key/kernel"))
  assert told.startswith("pruning rules: this run began with 80 % global, the config asks for 80 % per_matrix; restore")
  groups = by("50 % global 2:4: layers/wi_0/kernel", "80 % global: layers/key/kernel")
  told = refusal(groups, by("80 % global: layers/key/kernel, layers/wi_0/kernel"))
  assert "the config asks for 50 % global 2:4: layers/wi_0/kernel; 80 % global: layers/key/kernel; restore" in told
  # Records of older versions do not know their rules.
  assert plan_to_follow(groups, PLAN, 5, num_nonzero=50) == groups


def test_all_that_differs_is_told():
  told = refusal(other((0.5, 0.4), (3, 9), NAMES[1:]))
  assert all(part in told for part in ("sparsity=0.6", "no longer pruned: layers/key/kernel", "2 events at 3..9"))


def test_a_new_run_follows_its_keys():
  assert plan_to_follow(PLAN, None, 0, num_nonzero=99) == PLAN


def test_a_resume_keeps_where_its_plan_took_effect_with_and_without_gmp_reschedule():
  begun = dataclasses.replace(PLAN, begin_step=4, begin_active=70)
  for is_reschedule in (False, True):
    assert plan_to_follow(PLAN, begun, 8, 20, is_reschedule) == begun


def test_a_new_schedule_takes_effect_where_it_was_asked_for():
  asked = other((0.5, 0.1))
  assert plan_to_follow(asked, PLAN, 5, 50, True) == dataclasses.replace(asked, begin_step=5, begin_active=50)
  # Before the first event every weight is active, also the one that is 0 by chance.
  assert plan_to_follow(asked, PLAN, 2, 99, True) == dataclasses.replace(asked, begin_step=2, begin_active=None)


@pytest.mark.parametrize(("num_nonzero", "is_behind"), [(100, True), (51, True), (50, False), (20, False)])
def test_a_checkpoint_without_a_record_has_done_its_events_if_it_is_as_sparse_as_they_leave_it(num_nonzero, is_behind):
  expected = dataclasses.replace(PLAN, begin_step=5, begin_active=num_nonzero) if is_behind else PLAN
  assert plan_to_follow(PLAN, None, 5, num_nonzero) == expected


@pytest.mark.parametrize("start_step", [0, 7])
def test_hold_counts_the_zeros_that_are_there(start_step):
  held = plan_to_follow(HOLD, PLAN if start_step else None, start_step, 20, is_reschedule=True)
  assert (held.begin_step, held.begin_active) == (start_step, 20)


def test_a_sparse_run_does_not_go_on_dense_unless_it_is_told_to():
  refuse_dense_resume(None, is_reschedule=False)
  refuse_dense_resume(PLAN, is_reschedule=True)
  with pytest.raises(ConfigError, match=r"^sparsity=0: this run began with geometric, 2 events at 3\.\.6"):
    refuse_dense_resume(PLAN, is_reschedule=False)
