"""What all commands share when they print: JSON, tables, lines and numbers. And how they keep off the accelerators."""

from collections.abc import Mapping, Sequence
import json
import os
import sys
import textwrap
from typing import Any, Literal, TYPE_CHECKING

# Wider than any table.
_ENDLESS = 10_000
# A column that may be wrapped is not made narrower than this.
_LEAST_WRAPPED = 20

if TYPE_CHECKING:
  from rich.console import Console
  from rich.table import Table


def print_json(content: Mapping[str, Any]) -> None:
  """Prints one JSON object on stdout."""
  json.dump(content, sys.stdout)
  print()


def console(width: int = 120) -> "Console":
  """Returns a rich console. It has the width of the terminal, or `width` columns if the output is a pipe or a file."""
  from rich.console import Console

  return Console(highlight=False, width=None if sys.stdout.isatty() else width)


def new_table(
  columns: Sequence[str], left: Sequence[str] = (), title: str | None = None, wrapped: Sequence[str] = ()
) -> "Table":
  """Returns an empty table in the one style of the package.

  Args:
    columns: heads of the columns.
    left: heads of the columns that hold text and are aligned to the left. The first column always is.
    title: line above the table.
    wrapped: heads of the columns whose text may take several lines where the console is narrow.
  """
  from rich import box
  from rich.table import Table

  made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
  for index, column in enumerate(columns):
    side: Literal["left", "right"] = "left" if index == 0 or column in left else "right"
    made.add_column(column, justify=side, no_wrap=column not in wrapped, overflow="fold")
  return made


def print_table(console: "Console", table: "Table") -> None:
  """Prints a table without cutting anything off.

  Where the console is too narrow, the columns move together. If that is not enough, the lines are longer than the
  console, and the terminal wraps them. Rich itself would drop the ends of numbers.
  """
  from rich.cells import cell_len

  for column in table.columns:
    if column.no_wrap:
      column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
  width = console.width
  if _least_width(console, table) > width:
    table.collapse_padding = True
    table.padding = (0, 1, 0, 0)
  console.width = max(width, _least_width(console, table))
  try:
    console.print(table)
  finally:
    console.width = width


def _least_width(console: "Console", table: "Table") -> int:
  """Width of the console that the table needs, with all that may be wrapped wrapped, and long words broken."""
  from rich.measure import Measurement

  least = Measurement.get(console, console.options.update(width=_ENDLESS), table).minimum
  for column in table.columns:
    if not column.no_wrap:
      longest = max(map(len, " ".join(map(str, (column.header, *column.cells))).split()), default=0)
      least -= max(0, longest - _LEAST_WRAPPED)
  return least


def say(console: "Console", line: str) -> None:
  """Prints a line without markup or colours. A terminal breaks it between words only: half a path is of no use."""
  from rich.text import Text

  if console.is_terminal:  # what is piped stays one line
    parts = [
      textwrap.wrap(part, console.width, break_long_words=False, break_on_hyphens=False) for part in line.split("\n")
    ]
    line = "\n".join("\n".join(part) for part in parts)
  console.print(Text(line), soft_wrap=True)


def short(number: float) -> str:
  """Writes a number with four digits: 1.378e8 as 137.8M, 4.5e20 as 4.500e20."""
  for divisor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"), (1.0, "")):
    # The bounds are those after rounding: 999,960 is 1M, since it would round to 1000K.
    if divisor * 0.99995 <= abs(number) < divisor * 999.95:
      return f"{number / divisor:.4g}{suffix}"
  if abs(number) < 1.0:
    return f"{number:.4g}"
  mantissa, exponent = f"{number:.3e}".split("e")
  return f"{mantissa}e{int(exponent)}"


def avoid_accelerators() -> None:
  """Keeps jax on the CPU. Call it before jax is imported. Shapes need no accelerator, and one may be busy or missing."""
  os.environ["JAX_PLATFORMS"] = "cpu"
