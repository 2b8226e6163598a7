"""N(t) in the terminal and as PNG."""

import pytest

from maxtext_sparse.config import parse_keys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plan.chart import draw, short
from maxtext_sparse.plan.cost import make_plan
from maxtext_sparse.plots.plan import save_figure


@pytest.fixture
def report():
  return make_plan(parse_keys({"sparsity": 0.5}), 72200, 1_000_000)


@pytest.mark.parametrize(
  ("number", "text"),
  [
    (137_822_208, "137.8M"),
    (1_138_753_536, "1.139B"),
    (999_960, "1M"),
    (1234.0, "1.234K"),
    (5, "5"),
    (0.25, "0.25"),
    (0, "0"),
    (4.5e20, "4.500e20"),
  ],
)
def test_short_numbers(number, text):
  assert short(number) == text


def test_the_plot_falls_from_all_weights_to_half(report):
  lines = draw(report, width=60, height=8)
  top, middle, bottom = lines[0][9:], lines[4][9:], lines[7][9:]
  assert lines[0].startswith("     1M ┤") and lines[4].startswith("   500K ┤")
  dense_columns = int(12500 / 72200 * 60)
  assert top[:dense_columns] == "█" * dense_columns
  assert top[30:] == " " * 30
  assert middle == bottom == "█" * 60
  assert lines[-1].split() == ["0", "12500", "47200", "72200", "steps"]


def test_tick_labels_that_would_touch_are_left_out():
  report = make_plan(parse_keys({"sparsity": 0.5, "gmp_dense_fraction": 0.01}), 72200)
  assert draw(report)[-1].split()[0] == "0"
  assert draw(report)[-1].split()[-2:] == ["72200", "steps"]


def test_png(report, tmp_path):
  save_figure(report, str(tmp_path / "plan.png"))
  assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_one_line(report, tmp_path):
  with pytest.raises(ConfigError, match="cannot write this picture") as error:
    save_figure(report, str(tmp_path / "missing" / "plan.png"))
  assert "\n" not in str(error.value)
