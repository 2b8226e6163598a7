"""What a sparse weight is worth: fitted multipliers beside the claim of the average law, and the test of two factors.

The paper's average law says that a sparse run is worth its average size, eff(S) = N_avg / N. A multiplier law fits eff(S)
without that claim, so the table of both, with the fitted value's interval, tests the claim on any table of runs.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd

from maxtext_sparse.laws.fit import Fit
from maxtext_sparse.laws.law import Law
from maxtext_sparse.laws.multiplier import bits_name, Multiplier
from maxtext_sparse.laws.uncertainty import Bootstrap, interval


@dataclasses.dataclass(frozen=True)
class Worth:
  """One multiplier.

  Attributes:
    sparsity: S.
    effective: fitted effective parameters per parameter, eff(S).
    ends: of its 90 % interval; None without a bootstrap.
    average_law: what the average law claims, N_avg / N.
  """

  sparsity: float
  effective: float
  ends: tuple[float, float] | None
  average_law: float

  @property
  def holds_average(self) -> bool | None:
    """Whether the interval holds the average law's value."""
    return None if self.ends is None else self.ends[0] <= self.average_law <= self.ends[1]


def worths(fit: Fit, resamples: Bootstrap | None) -> list[Worth]:
  """Every sparsity's multiplier beside the average law's claim; empty for a law without multipliers."""
  law = fit.law
  if not isinstance(law, Multiplier):
    return []
  fitted, claimed = law.multipliers(fit.coefficients), average_worth(fit.runs, law.size)
  ends: dict[float, tuple[float, float]] = {}
  if resamples is not None:
    samples = pd.DataFrame([law.multipliers(law.coefficients(theta)) for theta in resamples.thetas])
    low, high = interval(samples.to_numpy())
    ends = {level: (float(a), float(b)) for level, a, b in zip(samples.columns, low, high)}
  return [Worth(level, value, ends.get(level), claimed[level]) for level, value in fitted.items() if level > 0]


def worths_to_dict(fit: Fit, found: Sequence[Worth]) -> dict[str, Any]:
  """What `fit --json` adds for a multiplier law."""
  law = fit.law
  if not isinstance(law, Multiplier):
    return {}
  content: dict[str, Any] = {
    "size": law.size,
    "multipliers": {"0": 1.0} | {f"{worth.sparsity:g}": worth.effective for worth in found},
    "multipliers_average_law": {"0": 1.0} | {f"{worth.sparsity:g}": worth.average_law for worth in found},
  }
  if all(worth.ends for worth in found):
    content["multipliers_interval"] = {f"{worth.sparsity:g}": list(worth.ends or ()) for worth in found}
    content["interval_holds_average_law"] = {f"{worth.sparsity:g}": worth.holds_average for worth in found}
  if law.bits:
    content["bits_multipliers"] = {f"{bits:g}": fit.coefficients[bits_name(bits)] for bits in law.bits}
    content["bits_multipliers"][f"{law.most_bits:g}"] = 1.0
    content["factorisation"] = factorisation(fit)
  return content


def average_worth(runs: pd.DataFrame, size: str) -> dict[float, float]:
  """Sparsity -> the multiplier that the average law claims: the mean of N_avg / N over the runs that have it."""
  ratio = runs["average_params"] / runs[size]
  return {float(level): float(mean) for level, mean in ratio.groupby(runs["sparsity"]).mean().items()}


def notes(law: Law, runs: pd.DataFrame) -> list[str]:
  """What the user should know about the columns that a multiplier law uses."""
  if isinstance(law, Multiplier) and law.most_bits is None and "bits" in runs:
    return [f"bits={runs['bits'].iloc[0]:g}: the same in all runs, so no multiplier of bits is fitted"]
  return []


def factorisation(fit: Fit) -> list[dict[str, Any]]:
  """Tests eff(S, bits) = eff(S) eff(bits) by the residual: a row for each sparsity and precision.

  Each row has the number of runs, the mean of ln L - ln L_predicted, and that mean over its standard error (`z`). Where
  the two factors do not explain a combination, |z| is well above 2.
  """
  runs, theta = fit.runs, fit.theta
  residual = np.log(runs["loss"].to_numpy()) - np.log(fit.predict(runs))
  scatter = float(np.std(residual, ddof=min(len(theta), len(runs) - 1)))
  table = pd.DataFrame({"sparsity": runs["sparsity"], "bits": runs["bits"], "residual": residual})
  rows = []
  for (sparsity, bits), part in table.groupby(["sparsity", "bits"]):
    mean, count = float(part["residual"].mean()), len(part)
    z = mean / (scatter / math.sqrt(count)) if scatter > 0 else 0.0
    rows.append({"sparsity": float(sparsity), "bits": float(bits), "n": count, "mean_residual": mean, "z": z})
  return rows
