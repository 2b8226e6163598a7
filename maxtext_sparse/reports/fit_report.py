"""The report of a fit: what was fitted to what, how, how far it can be trusted, and what is open.

Its last part answers, point by point, the checklist that Li et al. (2025), "(Mis)Fitting: A Survey of Scaling Laws", ask
every published fit to answer.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import os
import platform
from typing import Any

import numpy as np
import pandas as pd

from maxtext_sparse import __version__
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import lbfgs
from maxtext_sparse.laws.fit import Fit, HUBER_DELTA
from maxtext_sparse.laws.profile import Profile, profiles
from maxtext_sparse.laws.request import FitRequest
from maxtext_sparse.laws.text import FitSummary, number
from maxtext_sparse.laws.uncertainty import held_out_error, held_out_mae
from maxtext_sparse.plots import style
from maxtext_sparse.plots.accuracy import draw_fits
from maxtext_sparse.plots.diagnostics import draw_profiles, draw_residuals
from maxtext_sparse.reports.document import Answers, Block, DataTable, Document, Heading, Paragraph, Picture
from maxtext_sparse.runs.files import replace_json


@dataclasses.dataclass(frozen=True)
class FitReport:
  """What the report holds.

  Attributes:
    request: what was asked for.
    summary: the fit with bootstrap and errors of left-out sparsities.
    by_scale: what was left out -> (number of runs, error on them of a fit to the others, None if undetermined).
    profiles: of every coefficient.
    digest: SHA-256 of the table.
  """

  request: FitRequest
  summary: FitSummary
  by_scale: dict[str, tuple[int, float | None]]
  profiles: Sequence[Profile]
  digest: str

  @classmethod
  def make(cls, request: FitRequest, num_resamples: int) -> "FitReport":
    """Fits the law and everything that judges the fit.

    Raises:
      ConfigError: the law cannot be fitted, or there is no bootstrap.
    """
    if num_resamples < 2:
      raise ConfigError(f"--bootstrap={num_resamples}: must be at least 2 for --report, which gives standard errors")
    summary = request.summary(num_resamples, is_held_out=True)
    assert summary.resamples is not None
    with open(request.runs, "rb") as file:
      digest = hashlib.sha256(file.read()).hexdigest()
    return cls(request, summary, held_out_by_scale(summary.fit), profiles(summary.fit, summary.resamples), digest)

  def provenance(self) -> dict[str, Any]:
    """What it takes to get the same numbers again."""
    return {
      "table": os.path.basename(self.request.runs),
      "sha256": self.digest,
      "seed": self.request.seed,
      "starts": self.request.starts,
      "resamples": len(self.summary.resamples.thetas) if self.summary.resamples else 0,
      "loss_column": self.request.loss_column,
      "maxtext_sparse": __version__,
      "numpy": np.__version__,
      "pandas": pd.__version__,
      "python": platform.python_version(),
    }

  def to_dict(self) -> dict[str, Any]:
    """What fit.json holds: the keys of `fit --json`, and what the report adds."""
    return self.summary.to_dict() | {
      "held_out_by_scale": {name: {"n": count, "mae": error} for name, (count, error) in self.by_scale.items()},
      "profiles": {p.name: p.to_dict() for p in self.profiles},
      "provenance": self.provenance(),
    }

  def write(self, folder: str) -> list[str]:
    """Writes the folder and returns the paths of its files.

    Raises:
      ConfigError: the folder cannot be written.
    """
    pictures = self._pictures(folder)
    title = f"Law {self.summary.fit.law.name}, fitted to {os.path.basename(self.request.runs)}"
    files = Document(title, list(self._blocks(pictures))).write(folder)
    path = os.path.join(folder, "fit.json")
    replace_json(path, self.to_dict())
    return [*files, path, *(picture.path for picture in pictures)]

  def _pictures(self, folder: str) -> list[Picture]:
    fit, saved = self.summary.fit, []
    with style.in_style():
      figures = {
        "accuracy": (draw_fits([fit])[0], "Predicted against actual loss of every run."),
        "residuals": (draw_residuals(fit), "Residuals, actual over predicted loss, against size, tokens and sparsity."),
        "profiles": (draw_profiles(self.profiles), _PROFILE_CAPTION),
      }
      for name, (figure, caption) in figures.items():
        saved.append(Picture(style.save(figure, os.path.join(folder, "figures", name))[0], caption))
    return saved

  def _blocks(self, pictures: Sequence[Picture]) -> Iterator[Block]:
    fit, summary = self.summary.fit, self.summary
    yield Paragraph(
      f"{fit.law.equation}, N = {fit.law.size}, D = tokens. {len(fit.runs)} runs. Sum of Huber losses "
      f"{fit.objective:.6g}, mean absolute error {fit.mae:.4f}, on left-out sparsities {number(self._held_out(), '.4f')}."
    )
    yield Heading("Coefficients")
    yield DataTable("coefficients", ("coefficient", "value", "std. error", "unit"), list(summary.coefficient_rows()))
    if summary.worths:
      header = ("sparsity", "effective/parameter", "90 % interval", "average law", "interval holds it")
      yield DataTable("multipliers", header, list(summary.worth_rows()))
    yield Heading("Errors")
    yield DataTable("errors_by_sparsity", summary.error_header(), list(summary.error_rows()))
    yield DataTable("errors_by_scale", ("left out of the fit", "runs", "MAE on them"), list(self._scale_rows()))
    yield from pictures
    yield Heading("Checklist")
    yield Answers(list(self._answers()))
    yield Heading("What is open")
    yield Paragraph(" ".join(self._open_points()) or "Nothing that these checks can see.")
    yield Heading("Runs")
    yield DataTable("runs", ("run", "sparsity", fit.law.size, "tokens", "loss", "predicted", "residual"), _run_rows(fit))

  def _held_out(self) -> float | None:
    return held_out_mae(self.summary.fit, self.summary.held_out or {})

  def _scale_rows(self) -> Iterator[tuple[str, str, str]]:
    for name, (count, error) in self.by_scale.items():
      yield name, str(count), number(error, ".4f")

  def _answers(self) -> Iterator[tuple[str, str]]:
    fit, runs, by_scale = self.summary.fit, self.summary.fit.runs, self.by_scale
    yield "Which form?", f"{fit.law.equation}, the law {fit.law.name}."
    yield (
      "What is related, in which units?",
      f"Final evaluation loss (nats per token, column {self.request.loss_column}) to N = {fit.law.size} (prunable "
      "weights, without embeddings and norms), D (tokens) and, where the form has it, S (share of N removed).",
    )
    yield "Which parameters are fitted?", ", ".join(f"{p.name} ({p.unit})" for p in fit.law.parameters) + "."
    yield (
      "How many models, of which sizes, on how much data?",
      f"{len(runs)} runs: {_span(runs, 'dense_params')} dense parameters, {_span(runs, 'tokens')} tokens, sparsities "
      f"{', '.join(f'{level:g}' for level in sorted(runs['sparsity'].unique()))}.",
    )
    yield (
      "Is data repeated? How were hyperparameters chosen? Is the training code open?",
      "The table does not say. Further columns, if any, are in it: "
      f"{', '.join(name for name in runs if name not in _KNOWN) or 'none'}.",
    )
    yield "Which points of a run are used?", "One: its final evaluation. No loss during training."
    yield (
      "Which points were left out, how are they weighted?",
      "None was left out: a row that cannot be read is refused. "
      + ("Weighted by the column weight." if "weight" in runs else "All count the same."),
    )
    yield "Which loss?", f"Huber of ln L_predicted - ln L with delta {HUBER_DELTA:g}, summed over runs."
    yield (
      "Which optimiser?",
      f"L-BFGS in 64 bits, at most {lbfgs.MAX_ITERATIONS} iterations, closed-form gradient, to rounding level.",
    )
    yield (
      "Which starts, and do they agree?",
      f"{fit.num_starts} of the grid of Hoffmann et al. (2022), seed {self.request.seed}; {fit.num_agreeing} reached the "
      "same objective to 1e-9.",
    )
    positive = ", ".join(p.name for p in fit.law.parameters if p.is_log)
    yield "Which bounds?", f"{positive} are positive, because their logarithms are fitted. The others are free."
    yield (
      "How sure are the coefficients?",
      f"Bootstrap over runs, {self.provenance()['resamples']} resamples; standard errors are half the central 68 %.",
    )
    errors = "; ".join(f"{name}: {number(error, '.4f')}" for name, (_, error) in by_scale.items())
    yield (
      "Does it extrapolate?",
      f"Mean absolute error on runs left out of the fit: by sparsity {number(self._held_out(), '.4f')}; {errors}.",
    )
    yield "Can it be repeated?", "; ".join(f"{name} {value}" for name, value in self.provenance().items()) + "."

  def _open_points(self) -> Iterator[str]:
    fit = self.summary.fit
    if fit.undetermined:
      names = ", ".join(fit.undetermined)
      yield f"Starts with the same objective disagree on {names}, and by {fit.spread:.2g} on a loss."
    open_profiles = [profile.name for profile in self.profiles if profile.is_open]
    if open_profiles:
      names = ", ".join(open_profiles)
      yield f"The profiles of {names} stay inside the 95 % interval 3 standard errors away, so the runs leave them open."
    undetermined = [name for name, (_, error) in self.by_scale.items() if error is None]
    if undetermined:
      yield f"Without these the law is not determined: {', '.join(undetermined)}."
    if len(fit.runs) < 3 * len(fit.theta):
      yield f"There are only {len(fit.runs)} runs for {len(fit.theta)} parameters."


_PROFILE_CAPTION = (
  "Profile of each coefficient: the least objective while it is held fixed, over the least of all, 3 standard errors to "
  "each side. Dashed: the limit of its 95 % interval."
)
_KNOWN = ("run", "sparsity", "dense_params", "average_params", "final_params", "tokens", "loss", "weight", "bits")


def held_out_by_scale(fit: Fit) -> dict[str, tuple[int, float | None]]:
  """Errors on the largest dense size and on the longest runs, each left out of the fit."""
  errors = {}
  for name, column in (("the largest size", "dense_params"), ("the longest runs", "tokens")):
    values = fit.runs[column].to_numpy()
    # Sizes and lengths within 1 % of each other are one.
    is_held = values > values.max() * 0.99
    errors[f"{name} ({values.max():.4g})"] = int(is_held.sum()), held_out_error(fit, is_held)
  return errors


def _span(runs: pd.DataFrame, column: str) -> str:
  return f"{runs[column].min():.4g} to {runs[column].max():.4g}"


def _run_rows(fit: Fit) -> list[tuple[str, ...]]:
  runs, predicted = fit.runs, fit.predict(fit.runs)
  return [
    (str(row["run"]), f"{row['sparsity']:g}", f"{row[fit.law.size]:.4g}", f"{row['tokens']:.4g}", f"{row['loss']:.4f}")
    + (f"{loss:.4f}", f"{np.log(row['loss'] / loss):+.4f}")
    for (_, row), loss in zip(runs.iterrows(), predicted)
  ]
