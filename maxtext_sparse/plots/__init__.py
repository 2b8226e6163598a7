"""Figures from runs and laws. Only the modules of this package import matplotlib."""

from collections.abc import Sequence
import importlib
import os
from typing import Any

from maxtext_sparse.errors import ConfigError, did_you_mean
from maxtext_sparse.laws.forms import LAWS

# Name on the command line -> module of this package and function: (inputs, law names) -> figure, numbers to report.
FIGURES = {
  "pairs": ("pairs", "draw_pairs"),
  "gap": ("gap", "draw_gap"),
  "compute": ("compute", "draw_compute"),
  "accuracy": ("accuracy", "draw_accuracy"),
  "schedules": ("sweeps", "draw_schedules"),
  "rates": ("sweeps", "draw_rates"),
  "phases": ("sweeps", "draw_phases"),
  "density": ("density", "draw_density"),
  "isoflop": ("budgets", "draw_isoflop"),
  "frontier": ("budgets", "draw_frontier"),
}


def draw(figure: str, inputs: Sequence[str], out: str, law: str = "average") -> dict[str, Any]:
  """Draws a figure as PNG and SVG.

  Args:
    figure: a name in `FIGURES`.
    inputs: paths of runs tables, metrics files and run folders.
    out: folder for the two files, made if missing.
    law: for figures that fit: names of laws separated by commas, or `all`.

  Returns:
    JSON: `figure`, `files`, and the `numbers` that the figure shows.

  Raises:
    ConfigError: there is no such figure, or the inputs cannot give it.
  """
  if figure not in FIGURES:
    raise ConfigError(f"FIGURE={figure}: must be {', '.join(FIGURES)}{did_you_mean(figure, FIGURES)}")
  module, function = FIGURES[figure]
  style = importlib.import_module(f"{__name__}.style")
  with style.in_style():
    laws = list(LAWS) if law == "all" else law.split(",")
    drawn, numbers = getattr(importlib.import_module(f"{__name__}.{module}"), function)(inputs, laws)
    files = style.save(drawn, os.path.join(out, figure))
  return {"figure": figure, "files": files, "numbers": numbers}
