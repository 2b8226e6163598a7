"""Schedule arithmetic: which steps prune, to which density, and what the run then costs."""

import itertools
import math
import re

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
import pytest

from maxtext_sparse.config import parse_keys, SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.schedule import build_schedule, keep_count, phase_shares, refuse_idle, Schedule

PAPER_SPARSITIES = (0.2, 0.4, 0.6, 0.8)
# The paper's ten schedules: shares of the compute spent dense and pruning.
PAPER_FRACTIONS = [(d / 100, p / 100) for d in (0, 25, 50, 75) for p in (25, 50, 75, 100) if d + p <= 100]

# Sparsities as people write them, with up to four decimals.
sparsities = st.integers(1, 9999).map(lambda n: n / 10_000)


def schedule_of(steps, **keys) -> Schedule:
  return build_schedule(SparsityKeys(**keys), steps)


def refusal(steps, **keys) -> str:
  """The one line with which a schedule is refused."""
  with pytest.raises(ConfigError) as caught:
    schedule_of(steps, **keys)
  assert "\n" not in str(caught.value)
  return str(caught.value)


# --- the authors' numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps, sparsity, start, end", [(72_200, 0.5, 12_500, 47_200), (26_800, 0.6, 4_100, 16_600)])
def test_the_default_fractions_give_the_authors_start_and_end(steps, sparsity, start, end):
  schedule = schedule_of(steps, sparsity=sparsity)
  assert (schedule.start, schedule.end) == (start, end)
  assert len(schedule.event_steps) == (end - start) // 100 + 1


@pytest.mark.parametrize("sparsity, average", [(0.2, 0.8926), (0.4, 0.7662), (0.6, 0.6103), (0.8, 0.3991)])
def test_average_densities_are_the_papers_where_events_are_frequent(sparsity, average):
  schedule = schedule_of(200_000, sparsity=sparsity, gmp_pruning_frequency=10)
  assert schedule.average_density() == pytest.approx(average, abs=1e-4)


@pytest.mark.parametrize("shape", ["geometric", "cubic", "linear"])
@pytest.mark.parametrize("f_d, f_p", PAPER_FRACTIONS)
def test_the_phases_hold_the_shares_of_compute_that_were_asked_for(shape, f_d, f_p):
  schedule = schedule_of(
    100_000,
    sparsity=0.8,
    pruning_schedule=shape,
    gmp_pruning_frequency=10,
    gmp_dense_fraction=f_d,
    gmp_prune_fraction=f_p,
  )
  assert phase_shares(schedule) == pytest.approx((f_d, f_p, 1 - f_d - f_p), abs=1e-3)


@pytest.mark.parametrize("sparsity", PAPER_SPARSITIES)
@pytest.mark.parametrize("f_d, f_p", PAPER_FRACTIONS)
@pytest.mark.parametrize("steps", [72_200, 26_850, 7_001])
def test_every_schedule_of_the_paper_ends_inside_the_run_at_its_sparsity(steps, f_d, f_p, sparsity):
  schedule = schedule_of(steps, sparsity=sparsity, gmp_dense_fraction=f_d, gmp_prune_fraction=f_p)
  assert schedule.final_density == 1.0 - sparsity
  assert 0 <= schedule.start < schedule.end <= steps - 1


def test_the_paper_has_ten_schedules():
  assert len(PAPER_FRACTIONS) == 10


@pytest.mark.parametrize("f_d, f_p", [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25)])
def test_pruning_up_to_the_end_has_its_last_event_at_the_last_multiple_of_the_frequency(f_d, f_p):
  schedule = schedule_of(1_000, sparsity=0.8, gmp_dense_fraction=f_d, gmp_prune_fraction=f_p)
  assert schedule.event_steps[-2:] == (800, 900)
  assert schedule.target_density(999) == 1.0 - 0.8


@given(steps=st.integers(50, 3_000), period=st.integers(1, 60), sparsity=sparsities, end=st.booleans())
@settings(max_examples=60, deadline=None)
def test_shares_and_active_weights_are_those_of_a_sum_over_every_step(steps, period, sparsity, end):
  keys = {"gmp_start_step": steps // 3, "gmp_end_step": steps - 1 if end else steps // 2}
  schedule = schedule_of(steps, sparsity=sparsity, gmp_pruning_frequency=period, **keys)
  seen = [1.0 if step == 0 else schedule.target_density(step - 1) for step in range(steps)]
  dense, pruning = math.fsum(seen[: schedule.start]), math.fsum(seen[schedule.start : schedule.end])
  expected = dense / math.fsum(seen), pruning / math.fsum(seen)
  assert phase_shares(schedule) == (*expected, 1.0 - (dense + pruning) / math.fsum(seen))
  active = [schedule.active(step, 1001) for step in range(steps)]
  assert list(itertools.accumulate(active)) == [schedule.active_sum(step + 1, 1001) for step in range(steps)]


# --- densities written by hand ----------------------------------------------------------------------------------------

# Events at 2, 4, 6 and 8 of 12 steps. Geometric: 1/16 is reached by halving four times. Cubic: 0.5 + 0.5 (1-x)^3 with
# (1-x) = 3/4, 2/4, 1/4, 0. Linear: 1 - 0.8 x.
BY_HAND = [
  ("geometric", 15 / 16, [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 16, 1 / 16, 1 / 16, 1 / 16]),
  ("cubic", 0.5, [1, 1, 91 / 128, 91 / 128, 9 / 16, 9 / 16, 65 / 128, 65 / 128, 0.5, 0.5, 0.5, 0.5]),
  ("linear", 0.8, [1, 1, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2, 0.2, 0.2]),
]


@pytest.mark.parametrize("shape, sparsity, expected", BY_HAND)
def test_the_density_after_each_step_is_the_one_written_by_hand(shape, sparsity, expected):
  schedule = schedule_of(
    12, sparsity=sparsity, pruning_schedule=shape, gmp_start_step=2, gmp_end_step=8, gmp_pruning_frequency=2
  )
  assert [schedule.target_density(step) for step in range(12)] == pytest.approx(expected, rel=1e-12)
  assert [step for step in range(12) if schedule.is_event(step)] == [2, 4, 6, 8]
  # The forward pass of step t sees the density after step t-1.
  assert schedule.average_density() == pytest.approx((1 + sum(expected[:-1])) / 12, rel=1e-12)


def test_keep_counts_are_the_densities_of_the_weights_there_are():
  schedule = Schedule(12, (2, 4, 6, 8), (1 / 2, 1 / 4, 1 / 8, 1 / 16))
  assert schedule.keep_counts(1_600) == (800, 400, 200, 100)


def test_gradual_pruning_removes_a_fixed_fraction_of_the_remaining_weights():
  densities = (1.0, *schedule_of(10_000, sparsity=0.8).densities)
  ratios = [b / a for a, b in itertools.pairwise(densities)]
  assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-9)


@pytest.mark.parametrize("start", [0, 5, 11])
def test_one_shot_prunes_everything_at_the_start_step(start):
  schedule = schedule_of(12, sparsity=0.75, pruning_method="one-shot", gmp_start_step=start)
  assert (schedule.event_steps, schedule.densities) == ((start,), (0.25,))
  assert schedule.target_density(start) == 0.25


def test_one_shot_derives_its_start_from_the_dense_fraction_alone():
  # With d(t) = 1 before and 1/4 after, 25 % of C = 0.25 / (0.25 + 0.75 / 0.25) T = 1/13 of the steps are dense.
  keys = {"sparsity": 0.75, "pruning_method": "one-shot", "gmp_pruning_frequency": 10}
  assert schedule_of(13_000, **keys).event_steps == (1_000,)
  assert schedule_of(13_000, gmp_fraction_of="steps", **keys).event_steps == (3_250,)
  assert schedule_of(13_000, gmp_prune_fraction=0.0, **keys).event_steps == (1_000,)


def test_one_event_is_a_schedule_whose_end_is_its_start():
  keys = parse_keys({"sparsity": 0.75, "gmp_start_step": 5, "gmp_end_step": 5})
  schedule = build_schedule(keys, 12)
  assert (schedule.event_steps, schedule.densities) == ((5,), (0.25,))


def test_hold_has_no_events_and_masks_gradients_from_the_first_step():
  schedule = schedule_of(12, pruning_method="hold")
  assert (schedule.event_steps, schedule.start, schedule.first_masked_step) == ((), 0, 0)
  assert not any(schedule.is_event(step) for step in range(12))
  assert schedule.active_sum(12, 100, begin_active=40) == 12 * 40


def test_gradients_are_masked_from_the_step_after_the_first_event():
  assert Schedule(12, (3, 5), (0.5, 0.25)).first_masked_step == 4


def test_fractions_of_steps_are_shares_of_the_run_length():
  schedule = schedule_of(1_000, sparsity=0.8, gmp_fraction_of="steps", gmp_pruning_frequency=50)
  assert (schedule.start, schedule.end) == (250, 750)


def test_a_run_without_sparsity_has_an_average_density_of_one():
  assert schedule_of(1_000, sparsity=0.0, gmp_pruning_frequency=10).average_density() == 1.0


# --- the last event always meets the target ---------------------------------------------------------------------------


def test_the_case_in_which_jaxpruner_stops_at_0_770_reaches_0_800():
  keys = {"gmp_start_step": 5, "gmp_pruning_frequency": 10, "gmp_end_step": 29}
  schedule = schedule_of(30, sparsity=0.8, **keys)
  assert schedule.event_steps == (5, 15, 25)
  assert schedule.keep_counts(1_000)[-1] == 200


@given(
  steps=st.integers(1, 3_000),
  start=st.integers(0, 3_000),
  end=st.integers(0, 3_000),
  frequency=st.integers(1, 400),
  sparsity=sparsities,
  shape=st.sampled_from(["geometric", "cubic", "linear"]),
  num_prunable=st.integers(1, 10**13) | st.integers(1, 40),
)
@settings(max_examples=300)
def test_any_explicit_schedule_meets_its_target_exactly(steps, start, end, frequency, sparsity, shape, num_prunable):
  assume(start <= end <= steps and start < steps)
  schedule = schedule_of(
    steps,
    sparsity=sparsity,
    pruning_schedule=shape,
    gmp_start_step=start,
    gmp_end_step=end,
    gmp_pruning_frequency=frequency,
  )
  assert schedule.event_steps == tuple(range(start, min(end, steps - 1) + 1, frequency))
  assert_meets_target(schedule, sparsity, num_prunable)


@given(
  steps=st.integers(1, 200_000),
  fractions=st.sampled_from(PAPER_FRACTIONS),
  frequency=st.integers(1, 500),
  sparsity=sparsities,
  fraction_of=st.sampled_from(["compute", "steps"]),
)
@settings(max_examples=300)
def test_any_derived_schedule_meets_its_target_exactly_or_is_refused(steps, fractions, frequency, sparsity, fraction_of):
  keys = SparsityKeys(
    sparsity=sparsity,
    gmp_dense_fraction=fractions[0],
    gmp_prune_fraction=fractions[1],
    gmp_pruning_frequency=frequency,
    gmp_fraction_of=fraction_of,
  )
  try:
    schedule = build_schedule(keys, steps)
  except ConfigError as error:
    assert f"={frequency}: longer than the pruning phase" in str(error) or f"steps={steps}: the first" in str(error)
    return
  assert all(step % frequency == 0 for step in schedule.event_steps)
  assert_meets_target(schedule, sparsity, 10**10 + 1)


def assert_meets_target(schedule: Schedule, sparsity: float, num_prunable: int):
  keep = schedule.keep_counts(num_prunable)
  assert keep[-1] == num_prunable - round(sparsity * num_prunable)
  assert list(keep) == sorted(keep, reverse=True)
  assert all(a > b for a, b in itertools.pairwise((1.0, *schedule.densities)))
  assert schedule.event_steps[-1] < schedule.steps


@given(sparsity=sparsities, num_prunable=st.integers(1, 10**13) | st.integers(1, 40))
@example(sparsity=0.1, num_prunable=15)  # 1.5 weights in decimals, 1.4999999999999996 as (1 - 0.9) * 15
@settings(max_examples=300)
def test_the_removed_weights_are_the_sparsity_rounded_to_whole_weights(sparsity, num_prunable):
  assert keep_count(1.0 - sparsity, num_prunable) == num_prunable - round(sparsity * num_prunable)


# --- sums over the run ------------------------------------------------------------------------------------------------


def brute_force_active_sum(schedule, num_steps, num_prunable, begin, begin_active) -> int:
  active, total = begin_active, 0
  keep = dict(zip(schedule.event_steps, schedule.keep_counts(num_prunable)))
  for step in range(num_steps):
    total += active
    if step in keep and step >= begin:
      active = min(active, keep[step])
  return total


@given(
  start=st.integers(0, 30),
  num_events=st.integers(1, 6),
  frequency=st.integers(1, 7),
  num_steps=st.integers(0, 80),
  begin=st.integers(0, 80),
  begin_density=st.sampled_from([1.0, 0.9, 0.5, 0.1]),
)
@settings(max_examples=300)
def test_the_active_sum_equals_adding_up_step_by_step(start, num_events, frequency, num_steps, begin, begin_density):
  end = start + (num_events - 1) * frequency
  schedule = schedule_of(80, sparsity=0.8, gmp_start_step=start, gmp_end_step=end, gmp_pruning_frequency=frequency)
  begin_active = keep_count(begin_density, 1_001)
  expected = brute_force_active_sum(schedule, num_steps, 1_001, begin, begin_active)
  assert schedule.active_sum(num_steps, 1_001, begin, begin_active) == expected


def test_the_active_sum_starts_dense_unless_told_otherwise():
  schedule = Schedule(10, (3, 6), (0.5, 0.25))
  # Forward passes 0..3 see 100 weights, 4..6 see 50, 7..9 see 25.
  assert schedule.active_sum(10, 100) == 4 * 100 + 3 * 50 + 3 * 25
  assert schedule.active_sum(4, 100) == 4 * 100
  assert schedule.active_sum(5, 100) == 4 * 100 + 50


def test_the_active_sum_over_the_run_is_the_average_density():
  schedule = schedule_of(2_000, sparsity=0.6)
  num_prunable = 10**12
  assert schedule.active_sum(2_000, num_prunable) / (2_000 * num_prunable) == pytest.approx(schedule.average_density())


def test_an_event_at_the_last_step_counts_for_the_checkpoint_but_for_no_forward_pass():
  schedule = Schedule(10, (9,), (0.5,))
  assert schedule.active_sum(10, 100) == 1_000
  assert schedule.average_density() == 1.0
  assert schedule.target_density(9) == 0.5


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "steps, keys, opening, right",
  [
    (0, {}, "steps=0: ", "positive"),
    (-1, {}, "steps=-1: ", "positive"),
    (10, {"gmp_start_step": 10, "gmp_end_step": 10}, "gmp_start_step=10: ", "at most steps-1=9"),
    (10, {"gmp_start_step": 5, "gmp_end_step": 11}, "gmp_end_step=11: ", "at most steps=10"),
    (10, {"gmp_start_step": 12, "pruning_method": "one-shot"}, "gmp_start_step=12: ", "at most steps-1=9"),
    (100, {"gmp_pruning_frequency": 100}, "gmp_pruning_frequency=100: ", "must be at most"),
    (1_000, {"gmp_prune_fraction": 0.0}, "gmp_pruning_frequency=100: ", "pruning phase of 0 steps"),
    (1_000, {"gmp_dense_fraction": 1.0, "pruning_method": "one-shot"}, "steps=1000: ", "the last step is 999"),
  ],
)
def test_events_that_do_not_fit_the_run_are_refused_in_one_line(steps, keys, opening, right):
  message = refusal(steps, sparsity=0.5, **keys)
  assert message.startswith(opening)
  assert right in message


def test_an_explicit_end_at_the_run_length_means_the_last_event_inside_the_run():
  schedule = schedule_of(10, sparsity=0.5, gmp_start_step=4, gmp_end_step=10, gmp_pruning_frequency=3)
  assert schedule.event_steps == (4, 7)
  assert schedule.final_density == 0.5


@given(
  steps=st.integers(1, 200_000),
  frequency=st.integers(1, 100_000),
  sparsity=st.sampled_from([0.1, 0.5, 0.8, 0.99]),
  fraction_of=st.sampled_from(["compute", "steps"]),
)
def test_the_frequency_that_a_refusal_advises_is_accepted(steps, frequency, sparsity, fraction_of):
  raw = {"sparsity": sparsity, "gmp_pruning_frequency": frequency, "gmp_fraction_of": fraction_of}
  try:
    build_schedule(parse_keys(raw), steps)
  except ConfigError as error:
    advised = re.search(r"must be at most (\d+)$", str(error))
    assert advised or "train for more steps" in str(error), str(error)
    if advised:
      assert int(advised[1]) < frequency
      build_schedule(parse_keys(raw | {"gmp_pruning_frequency": int(advised[1])}), steps)


def test_a_flood_of_events_is_refused_with_a_frequency_that_works():
  raw = {"sparsity": 0.5, "gmp_pruning_frequency": 1}
  with pytest.raises(ConfigError, match=r"gmp_pruning_frequency=1: makes 48030250 pruning events") as raised:
    build_schedule(parse_keys(raw), 100_000_000)
  least = int(str(raised.value).rpartition(" ")[2])
  assert len(build_schedule(parse_keys(raw | {"gmp_pruning_frequency": least}), 100_000_000).event_steps) <= 1_000_000


def test_a_sparsity_that_removes_nothing_is_refused_with_one_that_removes_something():
  schedule = build_schedule(parse_keys({"sparsity": 1e-9}), 1000)
  with pytest.raises(
    ConfigError, match=r"^sparsity=1e-09: removes none of the 1000 prunable weights, must be at least 0.001"
  ):
    refuse_idle(schedule, 1000)
  refuse_idle(build_schedule(parse_keys({"sparsity": 0.001}), 1000), 1000)
