"""Fits as JSON objects and as text."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
from typing import Any

from maxtext_sparse.laws.fit import Fit
from maxtext_sparse.laws.uncertainty import held_out_mae


@dataclasses.dataclass(frozen=True)
class Report:
  """One fitted law with what was asked about it.

  Attributes:
    fit: the fit.
    standard_errors: coefficient -> bootstrap standard error; None without a bootstrap.
    held_out: sparsity -> error when left out of the fit; None if not asked for.
  """

  fit: Fit
  standard_errors: Mapping[str, float] | None = None
  held_out: Mapping[str, float | None] | None = None

  def to_json(self) -> dict[str, Any]:
    """The contract's keys; `objective` is the sum of Huber losses."""
    fit, errors = self.fit, self.standard_errors or {}
    content = {
      "law": fit.law.name,
      "n": len(fit.runs),
      "coefficients": {name: finite(value) for name, value in fit.coefficients.items()},
      "standard_errors": {name: finite(errors.get(name)) for name in fit.coefficients},
      "objective": fit.objective,
      "mae": fit.mae,
      "mae_by_sparsity": fit.mae_by_sparsity(),
    }
    if fit.undetermined:
      content |= {"undetermined": list(fit.undetermined), "spread": fit.spread}
    if self.held_out is not None:
      content["held_out_mae"] = held_out_mae(fit, dict(self.held_out))
      content["held_out_mae_by_sparsity"] = dict(self.held_out)
    return content

  def to_text(self) -> str:
    fit = self.fit
    lines = [
      f"law {fit.law.name}: {fit.law.equation}, N = {fit.law.size}, {len(fit.runs)} runs",
      f"sum of Huber {fit.objective:.6g} (mean {fit.objective / len(fit.runs):.4g}), {_origin(fit)}",
      "",
      text_table(("coefficient", "value", "std. error", "unit"), self._coefficient_rows()),
      "",
      text_table(self._error_header(), self._error_rows()),
    ]
    if len(fit.runs) == len(fit.theta):
      lines.append(f"\nas many runs as parameters, {len(fit.runs)}: nothing is left to judge the fit by")
    if fit.undetermined:
      lines.append(
        f"\nnot determined by these runs: {', '.join(fit.undetermined)} (starts with the same objective disagree on "
        f"them, and by {fit.spread:.2g} on the loss of a fitted run)"
      )
    return "\n".join(lines)

  def _coefficient_rows(self) -> Iterable[tuple[str, ...]]:
    errors = self.standard_errors or {}
    for parameter in self.fit.law.parameters:
      value = self.fit.coefficients[parameter.name]
      yield parameter.name, f"{value:.5g}", number(errors.get(parameter.name), ".2g"), parameter.unit

  def _error_header(self) -> tuple[str, ...]:
    return ("sparsity", "MAE") + (("MAE when held out",) if self.held_out is not None else ())

  def _error_rows(self) -> Iterable[tuple[str, ...]]:
    held = self.held_out
    overall = held_out_mae(self.fit, dict(held)) if held is not None else None
    yield ("all", f"{self.fit.mae:.4f}") + ((number(overall, ".4f"),) if held is not None else ())
    for level, error in self.fit.mae_by_sparsity().items():
      yield (level, f"{error:.4f}") + ((number(held[level], ".4f"),) if held is not None else ())


def comparison(reports: Sequence[Report]) -> str:
  """Several laws side by side, with the errors on a sparsity left out of the fit."""
  levels = list(reports[0].fit.mae_by_sparsity())
  header = ("law", "N", "parameters", "sum Huber", "mean Huber", "MAE", "held out", *(f"S={level}" for level in levels))
  rows = []
  for report in reports:
    fit, held = report.fit, dict(report.held_out or {})
    by_sparsity = fit.mae_by_sparsity()
    fitted = {level: "open" if _is_open(fit) else f"{by_sparsity[level]:.4f}" for level in levels}
    cells = [f"{fitted[level]}/{number(held.get(level), '.4f')}" for level in levels]
    rows.append(
      (
        fit.law.name,
        fit.law.size,
        str(len(fit.theta)),
        f"{fit.objective:.5g}",
        f"{fit.objective / len(fit.runs):.4g}",
        f"{fit.mae:.4f}",
        number(held_out_mae(fit, held), ".4f"),
        *cells,
      )
    )
  note = "MAE: mean |predicted - actual loss|. S=...: MAE fitted / when that sparsity is left out of the fit."
  if any(_is_open(report.fit) for report in reports):
    note += "\nopen: fits with the same objective differ there, these runs do not determine the law."
  return f"{text_table(header, rows)}\n{note}"


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Columns padded to equal width, two spaces apart."""
  lines = [tuple(header), *map(tuple, rows)]
  widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
  return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def number(value: float | None, form: str) -> str:
  return "-" if value is None or not math.isfinite(value) else format(value, form)


def finite(value: float | None) -> float | None:
  """JSON has no infinity."""
  return value if value is not None and math.isfinite(value) else None


def _is_open(fit: Fit) -> bool:
  """Whether equally good fits differ in the digits that are shown."""
  return fit.spread > 1e-4


def _origin(fit: Fit) -> str:
  if not fit.num_starts:
    return "at the given coefficients"
  return f"reached from {fit.num_agreeing} of {fit.num_starts} starts"
