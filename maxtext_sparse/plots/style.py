"""The look of all figures. Series differ in marker, dash and lightness, so they can be told apart in grey."""

from collections.abc import Iterator, Sequence
import contextlib
import itertools
import os
from typing import Any

import matplotlib
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from maxtext_sparse.errors import ConfigError

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
DPI = 160
# A panel has room for the labels of as many ticks.
_MOST_LABELS = 4
HATCHES = ("", "//", "..", "xx", "\\\\")
# From dark to light, so that the order is the same in grey.
_COLOURS = ("#0b1f4b", "#8a2f5b", "#2f7f8f", "#d9822b", "#a9c94f", "#e3b9cf", "#c8c8c8", "#f2e3a1")

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
  """A figure and its axes [rows, columns], each `width` x `height` inches. `options` go to `Figure.subplots`."""
  figure = Figure(figsize=(width * num_columns, height * num_rows))
  return figure, figure.subplots(num_rows, num_columns, squeeze=False, **options)


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


def percent(sparsity: float) -> str:
  """0.8 -> '80 %'."""
  return f"{100 * sparsity:g} %"


def percent_of(share: float, position: int | None = None) -> str:
  """`percent` as a formatter of ticks and contour labels, with a digit where it is needed."""
  del position
  return f"{round(100 * share, 1):g} %"


def count_axis(axis: Axis, unit: str = "") -> None:
  """Labels the major ticks like 40M and leaves the minor ones without labels."""
  axis.set_major_formatter(EngFormatter(unit=unit, sep=""))
  axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def label_counts(axis: Axis, values: Sequence[float]) -> None:
  """Ticks at these values if they are few and apart, otherwise as `count_axis`."""
  count_axis(axis)
  if len(values) <= _MOST_LABELS and all(b > 1.5 * a for a, b in itertools.pairwise(values)):
    axis.set_ticks(list(values), [compact(value) for value in values])
    axis.set_ticks([], minor=True)


def compact(value: float, unit: str = "") -> str:
  """Three digits: 1.5e8 -> '150M', 2e9 -> '2B'."""
  return str(EngFormatter(unit=unit, places=None, sep="")(float(f"{value:.3g}"))).replace("G", "B")


def save(figure: Figure, stem: str) -> list[str]:
  """Writes stem.png and stem.svg, and returns their paths.

  Raises:
    ConfigError: they cannot be written.
  """
  try:
    os.makedirs(os.path.dirname(os.path.abspath(stem)), exist_ok=True)
    files = [f"{stem}.png", f"{stem}.svg"]
    figure.savefig(files[0], dpi=DPI)
    figure.savefig(files[1], metadata={"Date": None})
  except OSError as error:
    raise ConfigError(f"--out={os.path.dirname(stem)}: cannot write ({error.strerror or error})") from error
  return files
