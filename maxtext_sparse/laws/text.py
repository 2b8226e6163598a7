"""Fits, predictions and recommendations as tables for people, and fits as JSON objects."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import io
import math
from typing import Any

from maxtext_sparse.laws.fit import Fit
from maxtext_sparse.laws.multiplier import Multiplier
from maxtext_sparse.laws.uncertainty import Bootstrap, held_out_mae
from maxtext_sparse.laws.worth import factorisation, notes, Worth, worths, worths_to_dict
from maxtext_sparse.terminal import new_table, short

# Equally good fits that differ by more than this in a loss differ in the digits that are shown.
_SHOWN = 1e-4
# By chance, one of 20 combinations is this many standard errors off in 1 % of tables.
_CLEAR_Z = 3.5
# Standard errors above this multiple of the value are not shown as numbers.
_OPEN_ERROR = 3.0
# Wider than any table: a table is never cut, even where the terminal wraps its lines.
_WIDTH = 10_000


@dataclasses.dataclass(frozen=True)
class FitSummary:
  """One fitted law with the answers to what was asked about it.

  Attributes:
    fit: the fit.
    resamples: bootstrap of the fit; None without one.
    held_out: sparsity -> error when it is left out of the fit; None if not asked for.
  """

  fit: Fit
  resamples: Bootstrap | None = None
  held_out: Mapping[str, float | None] | None = None

  @functools.cached_property
  def standard_errors(self) -> Mapping[str, float]:
    """Coefficient -> bootstrap standard error; empty without a bootstrap."""
    return {} if self.resamples is None else self.resamples.standard_errors()

  @functools.cached_property
  def worths(self) -> list[Worth]:
    """The multipliers of a multiplier law."""
    return worths(self.fit, self.resamples)

  def to_dict(self) -> dict[str, Any]:
    """What `fit --json` prints. `objective` is the sum of Huber losses."""
    fit, errors = self.fit, self.standard_errors
    content: dict[str, Any] = {
      "law": fit.law.name,
      "n": len(fit.runs),
      "coefficients": {name: finite(value) for name, value in fit.coefficients.items()},
      "standard_errors": {name: finite(errors.get(name)) for name in fit.coefficients},
      "objective": fit.objective,
      "mae": fit.mae,
      "mae_by_sparsity": fit.mae_by_sparsity(),
    }
    content |= worths_to_dict(fit, self.worths)
    if fit.undetermined:
      content |= {"undetermined": list(fit.undetermined), "spread": fit.spread}
    if self.held_out is not None:
      content["held_out_mae"] = held_out_mae(fit, self.held_out)
      content["held_out_mae_by_sparsity"] = dict(self.held_out)
    return content

  def to_text(self) -> str:
    fit = self.fit
    lines = [
      f"law {fit.law.name}: {fit.law.equation}, N = {fit.law.size}, {len(fit.runs)} runs",
      f"sum of Huber {fit.objective:.6g} (mean {fit.objective / len(fit.runs):.4g}), {_origin(fit)}",
      table_text(("coefficient", "value", "std. error", "unit"), self.coefficient_rows(), left=("unit",)),
      table_text(self.error_header(), self.error_rows()),
    ]
    if self.worths:
      header = ("sparsity", "effective/parameter", "90 % interval", "average law", "interval holds it")
      lines.append(table_text(header, self.worth_rows()))
    lines += _factorisation_lines(fit)
    if len(fit.runs) == len(fit.theta):
      lines.append(f"as many runs as parameters, {len(fit.runs)}: nothing is left to judge the fit by")
    if fit.undetermined:
      lines.append(
        f"not determined by these runs: {', '.join(fit.undetermined)} (starts with the same objective disagree on "
        f"them, and by {fit.spread:.2g} on the loss of a fitted run)"
      )
    return "\n".join([*lines, *notes(fit.law, fit.runs)])

  def coefficient_rows(self) -> Iterable[tuple[str, ...]]:
    errors = self.standard_errors
    for parameter in self.fit.law.parameters:
      value = self.fit.coefficients[parameter.name]
      error = errors.get(parameter.name)
      # A larger one is set by a few resamples and says only that the coefficient is open.
      is_open = error is not None and error > _OPEN_ERROR * abs(value)
      shown = f"> {_OPEN_ERROR:g}x value" if is_open else number(error, ".2g")
      yield parameter.name, f"{value:.5g}", shown, parameter.unit

  def worth_rows(self) -> Iterable[tuple[str, ...]]:
    """Each multiplier beside what the average law claims."""
    for worth in self.worths:
      ends = "-" if worth.ends is None else f"{worth.ends[0]:.3f} to {worth.ends[1]:.3f}"
      holds = {None: "-", True: "yes", False: "no"}[worth.holds_average]
      yield f"{worth.sparsity:g}", f"{worth.effective:.3f}", ends, f"{worth.average_law:.3f}", holds

  def error_header(self) -> tuple[str, ...]:
    return ("sparsity", "MAE") + (("MAE when held out",) if self.held_out is not None else ())

  def error_rows(self) -> Iterable[tuple[str, ...]]:
    held = self.held_out
    overall = held_out_mae(self.fit, held) if held is not None else None
    yield ("all", f"{self.fit.mae:.4f}") + ((_error(overall),) if held is not None else ())
    for level, error in self.fit.mae_by_sparsity().items():
      yield (level, f"{error:.4f}") + ((_error(held[level]),) if held is not None else ())


def comparison(summaries: Sequence[FitSummary]) -> str:
  """Several laws side by side, then their errors at each sparsity, fitted and when it is left out of the fit."""
  header = ("law", "N", "parameters", "sum Huber", "mean Huber", "MAE", "held out")
  overall = table_text(header, map(_law_cells, summaries), left=("N",))
  levels = list(summaries[0].fit.mae_by_sparsity())
  by_level = table_text(("law", *(f"S={level}" for level in levels)), map(_level_cells, summaries))
  note = "MAE: mean |predicted - actual loss|. S=...: MAE fitted / MAE when that sparsity is left out of the fit."
  if any(_is_open(summary.fit) for summary in summaries):
    note += "\nopen: fits with the same objective differ there, these runs do not determine the law."
  return f"{overall}\n{by_level}\n{note}"


def predictions_text(rows: Sequence[Mapping[str, Any]]) -> str:
  """What `predict` prints."""
  header = ("dense params", "sparsity", "average params", "tokens", "loss", "90 % interval")
  lines = [table_text(header, map(_prediction_cells, rows))]
  lines += [f"extrapolation: row {place}: {text}" for place, row in enumerate(rows, 1) for text in row["extrapolates"]]
  return "\n".join(lines)


def recommendation_text(result: Mapping[str, Any]) -> str:
  """What `recommend` prints for a training budget."""
  header = ("", "dense params", "sparsity", "average", "final", "tokens", "loss", "90 % interval", "hardware FLOPs")
  named = {name.replace("_", " "): result[name] for name in ("best", "runnable", "dense_alternative")}
  rows = []
  for name, row in named.items():
    if row is not None:
      dense, sparsity, average, tokens, loss, ends = _prediction_cells(row)
      final, flops = f"{row['final_params']:.4g}", f"{row['hardware_flops']:.3g}"
      rows.append((name, dense, sparsity, average, final, tokens, loss, ends, flops))
  lines = [
    f"law {result['law']}, effective compute 6 x average params x tokens = {result['budget_flops']:.3g} FLOPs",
    table_text(header, rows),
  ]
  if result["runnable"]:
    lines.append("runnable: " + " ".join(f"{name}={value}" for name, value in result["runnable"]["shape"].items()))
  gap, (low, high) = result["difference"], result["difference"]["interval"]
  lines.append(f"dense alternative minus best: {gap['loss']:+.4f} ({low:+.4f} to {high:+.4f}); {gap['verdict']}")
  return "\n".join([*lines, *result["warnings"]])


def life_text(result: Mapping[str, Any]) -> str:
  """What `recommend --inference-tokens` prints."""
  header = ("", "dense params", "sparsity", "final", "tokens", "training", "serving", "total FLOPs")
  rows = []
  for name in ("best_dense", "best_sparse", "runnable"):
    row = result[name]
    if row is not None:
      counts = [f"{row[key]:.4g}" for key in ("dense_params", "sparsity", "final_params", "tokens")]
      training = row["total_flops"] - row["inference_flops"]
      bill = [f"{value:.3g}" for value in (training, row["inference_flops"], row["total_flops"])]
      rows.append((name.replace("_", " "), *counts, *bill))
  best = "sparse" if result["best"]["sparsity"] > 0 else "dense"
  lines = [
    f"law {result['law']}, runs that reach {result['target_loss']:.4f}, the loss of the best dense run that "
    f"{result['budget_flops']:.3g} FLOPs train; {result['inference_tokens']:.3g} tokens served",
    table_text(header, rows),
    f"cheaper over its life: the {best} run; sparse is cheaper in {result['share_of_resamples_sparse_cheaper']:.0%} of "
    "the resamples",
    f"sparse wins {_from_tokens(result['break_even_tokens'])} (90 % interval: "
    f"{' to '.join(map(_served, result['break_even_interval']))})",
  ]
  return "\n".join([*lines, *result["warnings"]])


def contours_text(result: Mapping[str, Any]) -> str:
  """What `recommend --optimal-sparsity` prints: a row for each final size, a column for each budget."""
  columns = ("final params", *(f"D={short(tokens)}" for tokens in result["tokens"]))
  rows = [
    (short(size), *(f"{100 * sparsity:.3g} %" for sparsity in line))
    for size, line in zip(result["final_params"], result["optimal_sparsity"])
  ]
  note = "D: tokens that a dense model of the final size would see for the same effective compute"
  return f"law {result['law']}, best sparsity up to {result['max_sparsity']:g}\n{table_text(columns, rows)}\n{note}"


def table_text(columns: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str] = ()) -> str:
  """A table in the package's style at its full width, without blank lines around it.

  Args:
    columns: heads of the columns.
    rows: cells.
    left: heads of columns that are aligned to the left, besides the first.
  """
  from rich.console import Console

  table = new_table(columns, left)
  for row in rows:
    table.add_row(*row)
  output = io.StringIO()
  Console(file=output, width=_WIDTH, color_system=None, markup=False, highlight=False).print(table)
  return "\n".join(line.rstrip() for line in output.getvalue().splitlines() if line.strip())


def number(value: float | None, form: str) -> str:
  """The formatted number, '-' where there is none."""
  return "-" if value is None or not math.isfinite(value) else format(value, form)


def finite(value: float | None) -> float | None:
  """The number, or None where it is infinite or NaN, which JSON cannot hold."""
  return value if value is not None and math.isfinite(value) else None


def _factorisation_lines(fit: Fit) -> list[str]:
  """The test of eff(S, bits) = eff(S) eff(bits), where precision varies."""
  if not isinstance(fit.law, Multiplier) or not fit.law.bits:
    return []
  rows = factorisation(fit)
  cells = (
    (f"{r['sparsity']:g}", f"{r['bits']:g}", str(r["n"]), f"{r['mean_residual']:+.5f}", f"{r['z']:+.1f}") for r in rows
  )
  table = table_text(("sparsity", "bits", "runs", "mean residual in ln L", "z"), cells)
  worst = max(rows, key=lambda row: abs(row["z"]))
  verdict = "two factors explain all combinations" if abs(worst["z"]) < _CLEAR_Z else "two factors do not explain it"
  return [
    table,
    f"largest |z| {abs(worst['z']):.1f}, at sparsity {worst['sparsity']:g} and {worst['bits']:g} bits: {verdict}",
  ]


def _law_cells(summary: FitSummary) -> tuple[str, ...]:
  fit = summary.fit
  return (
    fit.law.name,
    fit.law.size,
    str(len(fit.theta)),
    f"{fit.objective:.5g}",
    f"{fit.objective / len(fit.runs):.4g}",
    f"{fit.mae:.4f}",
    _error(held_out_mae(fit, summary.held_out or {})),
  )


def _level_cells(summary: FitSummary) -> tuple[str, ...]:
  fit, held = summary.fit, summary.held_out or {}
  errors = fit.mae_by_sparsity().items()
  cells = ("open" if _is_open(fit) else f"{error:.4f}" for _, error in errors)
  return (fit.law.name, *(f"{cell}/{_error(held.get(level))}" for (level, _), cell in zip(errors, cells)))


def _prediction_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
  counts = [f"{row[name]:.4g}" for name in ("dense_params", "sparsity", "average_params", "tokens")]
  low, high = row["interval"]
  return *counts, f"{row['loss']:.4f}", f"{low:.4f} to {high:.4f}"


def _from_tokens(tokens: float | None) -> str:
  if tokens is None:
    return "for no number of tokens served"
  return "from the first token served" if tokens == 0 else f"from {tokens:.3g} tokens served"


def _served(tokens: float | None) -> str:
  return "never" if tokens is None else f"{tokens:.3g}"


def _error(value: float | None) -> str:
  """A law that is fitted without some runs can be off by any number there: 0.0123, 2e+05, or - if there is none."""
  return number(value, ".4f" if value is None or value < 10 else ".0e")


def _is_open(fit: Fit) -> bool:
  """Whether equally good fits differ in the digits that are shown."""
  return fit.spread > _SHOWN


def _origin(fit: Fit) -> str:
  if not fit.num_starts:
    return "at the given coefficients"
  return f"reached from {fit.num_agreeing} of {fit.num_starts} starts"
