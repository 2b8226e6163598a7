"""Figures 4, 5 and 6 compare runs of one size and length; only repeats are averaged."""

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plots import draw
from tests.plots.conftest import row, texts, write_table

BEST = {"gmp_dense_fraction": 0.25, "gmp_prune_fraction": 0.5}
LATE = {"gmp_dense_fraction": 0.5, "gmp_prune_fraction": 0.5}


def rate_row(name, dense=138e6, tokens=33.5e9, batch=500_000, **columns):
  return row(name, dense, 0.8, tokens, learning_rate=1e-3, batch_tokens=batch, **columns)


@pytest.fixture
def two_sizes(tmp_path):
  """The larger size does best with the later start, the smaller with the earlier one."""
  rows = [
    row(f"{size}{shares['gmp_dense_fraction']}", size, 0.8, 33.5e9, 0.1 * (shares is worse), **shares)
    for size, worse in ((42e6, LATE), (138e6, BEST))
    for shares in (BEST, LATE)
  ]
  return write_table(tmp_path / "t.csv", rows)


def test_schedules_has_a_panel_for_each_size(two_sizes, out):
  result = draw("schedules", [two_sizes], out)
  assert result["numbers"] == {"best_42M_33.5B_s80": "(25, 50)", "best_138M_33.5B_s80": "(50, 50)"}
  assert {"42M dense, 33.5B tokens", "138M dense, 33.5B tokens"} <= set(texts(result))


def test_phases_has_a_panel_for_each_size(two_sizes, out):
  result = draw("phases", [two_sizes], out)
  assert result["numbers"]["best_start_42M_33.5B_s80"] == "25 %"
  assert result["numbers"]["best_start_138M_33.5B_s80"] == "50 %"
  assert {"42M dense, 33.5B tokens", "138M dense, 33.5B tokens"} <= set(texts(result))


def test_phases_say_which_share_is_held(schedule_table, out):
  found = texts(draw("phases", [schedule_table], out))
  assert found.count("start, with 50 % pruning") == found.count("duration, with 25 % dense") == 2


def test_phases_leave_a_panel_empty_that_was_not_run(tmp_path, out):
  sweep = [row(f"a{i}", 138e6, 0.8, 33.5e9, **shares) for i, shares in enumerate((BEST, LATE))]
  table = write_table(tmp_path / "t.csv", [*sweep, row("b", 138e6, 0.8, 67e9, **LATE)])
  result = draw("phases", [table], out)
  assert "not run" in texts(result)
  assert "best_start_67B_s80" in result["numbers"] and "best_duration_67B_s80" not in result["numbers"]


def test_phases_need_the_papers_share(tmp_path, out):
  shares = {"gmp_dense_fraction": 0.4, "gmp_prune_fraction": 0.5}
  table = write_table(tmp_path / "t.csv", [row("a", 138e6, 0.8, 33.5e9, **shares)])
  with pytest.raises(ConfigError, match=r"^gmp_dense_fraction: no run has the paper's 0\.25"):
    draw("phases", [table], out)


def test_repeats_are_averaged(tmp_path, out):
  """Two of three repeats are good and the mean is not."""
  rows = [row(f"a{i}", 138e6, 0.8, 33.5e9, extra, **BEST) for i, extra in enumerate((0.0, 0.0, 0.3))]
  table = write_table(tmp_path / "t.csv", [*rows, row("b", 138e6, 0.8, 33.5e9, 0.05, **LATE)])
  assert draw("schedules", [table], out)["numbers"] == {"best_33.5B_s80": "(50, 50)"}


def test_runs_that_differ_in_another_setting_are_no_repeats(tmp_path, out):
  rows = [row(shape, 138e6, 0.8, 33.5e9, **BEST, pruning_schedule=shape) for shape in ("geometric", "cubic")]
  table = write_table(tmp_path / "t.csv", rows)
  with pytest.raises(ConfigError, match=r"^pruning_schedule=cubic, geometric: runs that are otherwise equal differ"):
    draw("schedules", [table], out)


@pytest.mark.parametrize(
  ("other", "message"),
  [
    (rate_row("b", dense=42e6), "^dense_params=42M to 138M: .* give those of one size$"),
    (rate_row("b", tokens=67e9), "^tokens=33.5B to 67B: .* give those of one length$"),
  ],
)
def test_rates_of_several_kinds_are_refused(tmp_path, out, other, message):
  with pytest.raises(ConfigError, match=message):
    draw("rates", [write_table(tmp_path / "t.csv", [rate_row("a"), other])], out)


def test_rates_take_lengths_that_differ_by_a_batch(tmp_path, out):
  rows = [rate_row("a"), rate_row("b", tokens=33.4e9, batch=2_000_000)]
  assert draw("rates", [write_table(tmp_path / "t.csv", rows)], out)["numbers"]
