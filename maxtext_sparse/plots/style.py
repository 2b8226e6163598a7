"""The look of all figures: colours, dashes, markers, sizes and pictures.

Series differ in marker and dash as well as in colour, so they can be told apart in grey. No figure is larger than a page,
so that its text is legible when it is 600 pixels wide.
"""

from collections.abc import Callable, Iterator
import contextlib
import math
import os
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
import numpy as np

from maxtext_sparse.errors import ConfigError

# Inches. Text of 9 points is 10 pixels high on a page of 600 pixels.
PAGE = (7.5, 10.0)
DPI = 160
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = (
  "-",
  (0, (5, 1.5)),
  (0, (1.5, 1.2)),
  (0, (6, 1.5, 1.5, 1.5)),
  (0, (3, 1, 1, 1, 1, 1)),
  (0, (9, 2)),
  (0, (1, 3)),
  (0, (9, 1.5, 3, 1.5)),
)
HATCHES = ("", "//", "..", "xx", "\\\\", "--", "oo", "++")
# Shades of cells: white is least, black most.
SHADES = "Greys"
# The first four go from dark to light also in grey. All are dark enough for a thin line on white.
_COLOURS = ("#0b1f4b", "#8a2f5b", "#2f7f8f", "#d9822b", "#7d9a1f", "#b768a8", "#8c8c8c", "#b8922a")
# Ticks of a logarithmic axis within each decade, from many to few.
_LOG_STEPS: tuple[tuple[float, ...], ...] = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))

_STYLE: Any = {
  "font.size": 9,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": "#dddddd",
  "grid.linewidth": 0.6,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "legend.frameon": False,
  "legend.fontsize": 8,
  "figure.constrained_layout.use": True,
  "svg.hashsalt": "maxtext_sparse",
}


@contextlib.contextmanager
def in_style() -> Iterator[None]:
  """Applies the style to the figures that are made and saved inside."""
  with matplotlib.rc_context(_STYLE):
    yield


def panels(
  num_rows: int, num_columns: int, width: float = 3.6, height: float = 3.0, **options: Any
) -> tuple[Figure, Any]:
  """A figure and its axes [rows, columns], each with ticks.

  Args:
    num_rows: rows of panels.
    num_columns: columns of panels.
    width: inches of a panel, less where the page has no room.
    height: likewise.
    **options: for `Figure.subplots`.
  """
  size = (min(PAGE[0], width * num_columns), min(PAGE[1], height * num_rows))
  figure = Figure(figsize=size)
  axes = figure.subplots(num_rows, num_columns, squeeze=False, **options)
  for axis in axes.flat:
    axis.tick_params(labelbottom=True, labelleft=True)
  return figure, axes


def wrapped(count: int, num_columns: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
  """A figure and its `count` axes, at most `num_columns` in a row."""
  num_columns = min(count, num_columns)
  figure, axes = panels(-(-count // num_columns), num_columns, width, height, **options)
  for axis in axes.flat[count:]:
    axis.remove()
  return figure, list(axes.flat[:count])


def colour(index: int) -> str:
  """Colour of the index-th series."""
  return _COLOURS[index % len(_COLOURS)]


def series(index: int) -> dict[str, Any]:
  """Line style of the index-th series. A dark edge keeps light markers visible."""
  return {
    "color": colour(index),
    "marker": MARKERS[index % len(MARKERS)],
    "linestyle": DASHES[index % len(DASHES)],
    "markeredgecolor": "black",
    "markeredgewidth": 0.5,
  }


def marks(index: int, num_points: int, num_marks: int = 10) -> tuple[int, int]:
  """`markevery` of the index-th curve: about `num_marks` markers, not on those of curves that run along it."""
  every = max(1, num_points // num_marks)
  return (index * max(1, every // 4)) % every, every


def percent(sparsity: float) -> str:
  """0.8 -> '80 %'."""
  return f"{100 * sparsity:g} %"


def percent_of(share: float, position: int | None = None) -> str:
  """`percent` as a formatter of ticks and contour labels, with a digit where it is needed."""
  del position
  return f"{round(100 * share, 1):g} %"


def count_axis(axis: Axis) -> None:
  """Labels the major ticks of a linear axis like 40M."""
  axis.set_major_formatter(EngFormatter(sep=""))


def log_ticks(axis: Axis, text: Callable[[float], str] | None = None, most: int = 5) -> None:
  """Labelled ticks of a logarithmic axis, at round numbers and so few that they never touch.

  Args:
    axis: its limits must be final.
    text: label of a value, `compact` if None.
    most: number of labels that there is room for.
  """
  low, high = sorted(axis.get_view_interval())
  ticks = _ticks_within(low, high, most)
  axis.set_ticks(ticks, [(text or compact)(tick) for tick in ticks])
  axis.set_ticks([], minor=True)


def _ticks_within(low: float, high: float, most: int) -> list[float]:
  decades = np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  for steps in _LOG_STEPS:
    ticks = [float(f"{step * 10.0**decade:.2g}") for decade in decades for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) <= most:
      break
  if len(ticks) > most:
    return ticks[:: -(-len(ticks) // most)]
  if len(ticks) < 3 and high < 10 * low:
    # Less than a decade has few round numbers. There a linear axis' ticks are nearly even.
    linear = MaxNLocator(most - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in linear if low <= tick <= high]
  return ticks


def flops_text(value: float) -> str:
  """2e18 -> '2e+18'."""
  return f"{value:.2g}"


def compact(value: float, unit: str = "") -> str:
  """Three digits: 1.5e8 -> '150M', 2e9 -> '2B'."""
  return str(EngFormatter(unit=unit, places=None, sep="")(float(f"{value:.3g}"))).replace("G", "B")


def save(figure: Figure, stem: str) -> list[str]:
  """Writes stem.png and stem.svg, and returns their paths.

  Raises:
    ConfigError: they cannot be written.
  """
  files = [f"{stem}.png", f"{stem}.svg"]
  try:
    os.makedirs(os.path.dirname(os.path.abspath(stem)), exist_ok=True)
    for file in files:
      save_picture(figure, file)
  except OSError as error:
    raise ConfigError(f"--out={os.path.dirname(stem)}: cannot write ({error.strerror or error})") from error
  return files


def _fix_layout(figure: Figure) -> None:
  """Sets the panels where the layout engine puts them, rounded: its last digits differ from one run to the next."""
  figure.draw_without_rendering()
  figure.set_layout_engine("none")
  for axis in figure.axes:
    axis.set_position(np.round(axis.get_position(original=True).bounds, 6))


def save_picture(figure: Figure, path: str) -> None:
  """Writes one file, which is the same each time. Its ending gives the format."""
  _fix_layout(figure)
  metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": None}}
  figure.savefig(path, dpi=DPI, metadata=metadata.get(os.path.splitext(path)[1].lower()))
