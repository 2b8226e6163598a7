"""What commands print fits the terminal, and nothing is cut off where it does not."""

import io

import pytest
from rich.console import Console

from maxtext_sparse.terminal import new_table, print_table, say

WORDS = ["a/long/path/of/a/parameter", "12345..67890", "137.8M -> 27.56M", "yes"]


def lines_of(width: int, **settings) -> list[str]:
  output = io.StringIO()
  table = new_table(["parameter", "steps", "active weights", "is pruned"], **settings)
  table.add_row(*WORDS)
  print_table(Console(file=output, width=width), table)
  return [line.rstrip() for line in output.getvalue().splitlines() if line.strip()]


@pytest.mark.parametrize("width", [20, 68, 80, 200])
def test_no_cell_is_cut_off_however_narrow_the_terminal(width):
  head, _, row = lines_of(width)
  assert all(word in row for word in WORDS) and "active weights" in head


def test_columns_move_together_before_a_line_gets_too_long():
  wide, narrow = max(map(len, lines_of(200))), max(map(len, lines_of(72)))
  assert narrow <= 72 < wide


def test_a_column_that_may_be_wrapped_is():
  assert max(map(len, lines_of(64, wrapped=["parameter"]))) <= 64


def said(line: str, **settings) -> list[str]:
  output = io.StringIO()
  say(Console(file=output, width=40, **settings), line)
  return output.getvalue().splitlines()


def test_a_terminal_breaks_a_sentence_between_words_and_never_a_path():
  path = "/a/path/that/is/longer/than/the/terminal/is/wide.png"
  lines = said(f"The figure of the run is in this folder, and its name is {path} for you.", force_terminal=True)
  assert lines == ["The figure of the run is in this folder,", "and its name is", path, "for you."]


def test_what_is_piped_stays_one_line():
  assert said("word " * 30) == ["word " * 30]


def test_the_width_of_the_console_stays_what_it_was():
  console, table = Console(file=io.StringIO(), width=20), new_table(["name"])
  table.add_row("a/long/path/of/a/parameter")
  print_table(console, table)
  assert console.width == 20
