"""The figures that are shown while a run trains."""

import io
import re

import pytest
from rich.console import Console

from maxtext_sparse.local.progress import figures, num_done, runs_progress

TRAIN = {"step": 71_999.0, "learning/loss": 10.1, "pruning/density": 0.2}
HELD_OUT = {"step": 71_999.0, "eval/avg_loss": 4.15}


def test_progress_figures():
  train = TRAIN | {"step": 39.0, "learning/loss": 4.1}
  assert figures({}, {}) == "starting MaxText" and num_done({}) == 0
  assert figures(train, HELD_OUT) == "loss 4.100, density 0.200, eval 4.150"
  assert figures({"step": 0.0, "learning/loss": 8.0}, {}) == "loss 8.000"
  assert num_done(train) == 40


def bars_of(width: int, **rows: dict[str, float]) -> list[str]:
  """The last state of the bars of several runs on a terminal."""
  shown = io.StringIO()
  with runs_progress(Console(file=shown, force_terminal=True, width=width)) as show:
    reports = [show(title, 72_200) for title in rows]
    for report, row in zip(reports, rows.values()):
      report(row, HELD_OUT)
  lines = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown.getvalue()).splitlines()
  return [line.rstrip() for line in lines[-len(rows) :]]


@pytest.mark.parametrize("width", [76, 80, 120])
def test_the_bar_of_a_run_with_a_long_name_keeps_its_numbers(width):
  (line,) = bars_of(width, **{"mini-pairs-seed0-s80-d25-p50[b]": TRAIN})
  assert len(line) <= width and "step 72000/72200 loss 10.100, density 0.200, eval 4.150 " in line
  assert re.search(r"^mini.*(?:…|\[b\]) ━+", line) and re.search(r" (-:--|\d:\d\d):..$", line)


def test_several_bars_stand_below_each_other_at_80_columns():
  dense = {"step": 71_999.0, "learning/loss": 10.1}
  lines = bars_of(80, **{"dense": dense, "sparse 40 %": TRAIN, "a very long title of a twin": dense})
  assert [len(line) for line in lines] == [80] * 3 and len({line.index("step 72000/72200") for line in lines}) == 1
  assert [line.split(" ━")[0].rstrip() for line in lines] == ["dense", "sparse 40 %", "a very lon…"]


def test_a_run_that_ends_before_its_first_step_leaves_no_bar():
  shown = io.StringIO()
  with runs_progress(Console(file=shown, force_terminal=True, width=80)) as show:
    show("refused", 60)
  # The last thing is that the line of the bar is erased.
  assert "starting MaxText" in shown.getvalue() and "starting MaxText" not in shown.getvalue().split("\x1b[2K")[-1]
