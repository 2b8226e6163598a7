"""From the options of a command to a fitted law."""

import dataclasses

import pandas as pd

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.fit import evaluate, Fit, fit
from maxtext_sparse.laws.forms import law_named, LAWS
from maxtext_sparse.laws.law import Law
from maxtext_sparse.laws.multiplier import with_size
from maxtext_sparse.laws.runs_table import read_runs
from maxtext_sparse.laws.text import FitSummary
from maxtext_sparse.laws.uncertainty import Bootstrap, bootstrap, check_resamples, leave_one_sparsity_out


@dataclasses.dataclass(frozen=True)
class FitRequest:
  """What to fit, as the options say it.

  Attributes:
    runs: path of the table.
    law: name of the law.
    starts: number of starts, or `all`.
    seed: of the drawn starts and the resamples.
    size: what N is in a multiplier law, `dense` or `final`; None for its default.
    loss_column: the column with the loss.
  """

  runs: str
  law: str
  starts: str = "100"
  seed: int = 0
  size: str | None = None
  loss_column: str = "loss"

  def __post_init__(self) -> None:
    if not (self.starts == "all" or self.starts.isdigit()):
      raise ConfigError(f"--starts={self.starts}: must be a positive number or all")
    if self.seed < 0:
      raise ConfigError(f"--seed={self.seed}: must be 0 or more")

  def fit(self) -> Fit:
    """Fits the law."""
    return fit(self._law(), self._table(), None if self.starts == "all" else int(self.starts), self.seed)

  def fit_with_resamples(self, num_resamples: int) -> tuple[Fit, Bootstrap]:
    """Fits the law to the runs and to resamples of them."""
    check_resamples(num_resamples)
    fitted = self.fit()
    return fitted, self.resamples(fitted, num_resamples)

  def resamples(self, fitted: Fit, num_resamples: int) -> Bootstrap:
    """Fits the law to resamples of the runs."""
    return bootstrap(fitted, num_resamples, self.seed)

  def summary(self, num_resamples: int, is_held_out: bool) -> FitSummary:
    """A fit with a bootstrap unless `num_resamples` is 0, and with held-out errors if asked for."""
    if num_resamples:
      check_resamples(num_resamples)
    fitted = self.fit()
    resamples = self.resamples(fitted, num_resamples) if num_resamples else None
    return FitSummary(fitted, resamples, leave_one_sparsity_out(fitted) if is_held_out else None)

  def summary_at(self, at: str) -> FitSummary:
    """The law at given coefficients, NAME=NUMBER,NAME=NUMBER,..."""
    pairs = [item.partition("=") for item in at.split(",")]
    try:
      coefficients = {key.strip(): float(value) for key, _, value in pairs}
    except ValueError:
      raise ConfigError(f"--at={at}: must be NAME=NUMBER,NAME=NUMBER,...") from None
    if len(coefficients) < len(pairs):
      raise ConfigError(f"--at={at}: must name each coefficient once")
    return FitSummary(evaluate(self._law(), self._table(), coefficients))

  def _law(self) -> Law:
    law = law_named(self.law)
    return law if self.size is None else with_size(law, self.size)

  def _table(self) -> pd.DataFrame:
    return read_runs(self.runs, self.loss_column)


def summaries_of_all(request: FitRequest) -> tuple[list[FitSummary], list[str]]:
  """Every law with its held-out errors, and a line for each that these runs cannot determine.

  Raises:
    ConfigError: they determine none.
  """
  summaries, left_out = [], []
  for name, law in LAWS.items():
    size = request.size if law.knows_sparsity and name.startswith("multiplier") else None
    try:
      summaries.append(dataclasses.replace(request, law=name, size=size).summary(0, is_held_out=True))
    except ConfigError as error:
      left_out.append(f"left out: {error}")
  if not summaries:
    raise ConfigError(left_out[0].removeprefix("left out: "))
  return summaries, left_out
