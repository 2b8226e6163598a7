"""The figures that are shown while a run trains."""

import io
import re

import pytest
from rich.console import Console

from maxtext_sparse.local.progress import figures, num_done, run_progress

TRAIN = {"step": 71_999.0, "learning/loss": 10.1, "pruning/density": 0.2}
HELD_OUT = {"step": 71_999.0, "eval/avg_loss": 4.15}


def test_progress_figures():
  train = TRAIN | {"step": 39.0, "learning/loss": 4.1}
  assert figures({}, {}) == "starting MaxText" and num_done({}) == 0
  assert figures(train, HELD_OUT) == "loss 4.100, density 0.200, eval 4.150"
  assert figures({"step": 0.0, "learning/loss": 8.0}, {}) == "loss 8.000"
  assert num_done(train) == 40


def bar_of(title: str, width: int) -> str:
  """The last state of a bar on a terminal."""
  shown = io.StringIO()
  with run_progress(Console(file=shown, force_terminal=True, width=width), title, 72_200) as report:
    report(TRAIN, HELD_OUT)
  return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown.getvalue()).splitlines()[-1].rstrip()


@pytest.mark.parametrize("width", [76, 80, 120])
def test_the_bar_of_a_run_with_a_long_name_keeps_its_numbers(width):
  line = bar_of("mini-pairs-seed0-s80-d25-p50[b]", width)
  assert len(line) <= width and "step 72000/72200 loss 10.100, density 0.200, eval 4.150 " in line
  assert re.search(r"^mini.*(?:…|\[b\]) ━+", line) and re.search(r" (-:--|\d:\d\d):..$", line)


def test_a_short_name_is_whole():
  assert bar_of("dense", 80).startswith("dense ━━")
