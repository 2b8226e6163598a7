"""The best run for a training budget and a cap on the deployed model, as a law sees it, beside the best dense run."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from maxtext_sparse.amounts import meant_share, rounded_up
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import Array
from maxtext_sparse.laws.fit import Fit
from maxtext_sparse.laws.predict import as_columns, Candidate, candidate, extrapolations, predictions
from maxtext_sparse.laws.shapes import nearest_shape, Shape
from maxtext_sparse.laws.uncertainty import Bootstrap, interval, LEVEL
from maxtext_sparse.plan.cost import training_flops

_SPARSITY_STEP = 0.005
# Sparsities whose best loss is within this of the least one (relatively) are equally good. The lowest is taken.
_TIE = 1e-6
# How far beyond the fitted sizes the search goes.
_SIZE_MARGIN = 100.0
# Narrows a bracket to 1e-10 of its width.
_NUM_SECTIONS = 48
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclasses.dataclass(frozen=True)
class TrainingBudget:
  """What is asked for.

  Attributes:
    flops: effective training compute, 6 N_avg D.
    max_final_params: cap on the prunable weights of the deployed model; infinite for none.
    max_sparsity: cap on S.
    min_sparsity: the least S; with `max_sparsity` the only one, where a user asks for one.
    num_chips: the hidden size of the runnable shape is divisible by it.
    vocab: vocabulary of the runnable shape.
    schedule: sparsity keys that differ from the defaults.
  """

  flops: float
  max_final_params: float = math.inf
  max_sparsity: float = 0.8
  num_chips: int = 1
  vocab: int = 32_000
  schedule: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  min_sparsity: float = 0.0

  def __post_init__(self) -> None:
    if not (self.flops > 0 and math.isfinite(self.flops)):
      raise ConfigError(f"--flops={self.flops:g}: must be a positive number")
    if not self.max_final_params > 0:
      raise ConfigError(f"--max-final-params={self.max_final_params:g}: must be a positive number")
    if not 0 <= self.max_sparsity < 1:
      hint = meant_share(f"{self.max_sparsity:g}")
      raise ConfigError(f"--max-sparsity={self.max_sparsity:g}: must be a number in [0, 1){hint}")
    for option, value in (("--chips", self.num_chips), ("--vocab-size", self.vocab)):
      if value < 1:
        raise ConfigError(f"{option}={value}: must be a positive number")


def best_run(fit: Fit, budget: TrainingBudget) -> Candidate:
  """Dense size, sparsity and tokens of least predicted loss within the budget.

  For each sparsity a golden section searches the size. With D = C / (6 N_avg) the log of every term of a law is linear in
  ln N, so ln L is convex in ln N and has one minimum. Where several sparsities are equally good, the lowest is taken.

  Raises:
    ConfigError: the budget or the cap is out of reach of the law.
  """
  check_reach(fit, budget)
  sparsity = np.unique(
    np.append(np.arange(budget.min_sparsity, budget.max_sparsity, _SPARSITY_STEP), budget.max_sparsity)
  )
  density = np.array([candidate(1.0, s, 1.0, budget.schedule).average_density for s in sparsity])
  lowest, largest = search_range(fit)
  highest = np.minimum(largest, budget.max_final_params / (1.0 - sparsity))

  def loss(log_n: Array) -> Array:
    return fit.predict(_columns(np.exp(log_n), sparsity, density, budget.flops))

  low = np.full_like(sparsity, math.log(lowest))
  log_n = golden_section(loss, low, np.maximum(np.log(highest), low))
  losses = np.where(highest >= lowest, loss(log_n), np.inf)
  chosen = int(np.argmax(losses <= losses.min() * (1 + _TIE)))
  return _spend(float(np.exp(log_n[chosen])), float(sparsity[chosen]), budget)


def check_reach(fit: Fit, budget: TrainingBudget) -> None:
  """Raises ConfigError for a budget or a cap that is out of reach of the law, before resamples are fitted."""
  lowest, _ = search_range(fit)
  if budget.max_final_params < lowest * (1 - budget.max_sparsity):
    raise ConfigError(
      f"--max-final-params={budget.max_final_params:g}: more than {_SIZE_MARGIN:g} times below the smallest fitted run, "
      f"must be at least {rounded_up(lowest * (1 - budget.max_sparsity))}"
    )
  if budget.flops < training_flops(lowest, 1.0):
    raise ConfigError(
      f"--flops={budget.flops:g}: less than one token of a run {_SIZE_MARGIN:g} times below the smallest fitted one, "
      f"must be at least {rounded_up(training_flops(lowest, 1.0))}"
    )


def recommend(fit: Fit, resamples: Bootstrap, budget: TrainingBudget) -> dict[str, Any]:
  """The best run, the nearest runnable shape, the dense run of equal deployed size, and their difference, as JSON.

  `runnable` is null where no shape keeps the cap.
  """
  best = best_run(fit, budget)
  dense = _spend(best.final_params, 0.0, budget)
  shape = _runnable_shape(best, budget)
  runnable = {"runnable": _spend_on(shape, best, budget)} if shape else {}
  runs = {"best": best, **runnable, "dense_alternative": dense}
  rows: dict[str, Any] = dict(zip(runs, predictions(fit, resamples, list(runs.values()))))
  if shape:
    rows["runnable"] |= {"shape": shape.maxtext_keys(), "total_params": shape.total}
  return {
    "law": fit.law.name,
    "compute": "effective: 6 x average_params x tokens; hardware_flops is what dense hardware spends",
    "budget_flops": budget.flops,
    "max_final_params": budget.max_final_params if math.isfinite(budget.max_final_params) else None,
    "best": rows["best"],
    "runnable": rows.get("runnable"),
    "dense_alternative": rows["dense_alternative"],
    "difference": _difference(fit, resamples, best, dense, budget),
    "warnings": list(_warnings(fit, budget, runs)),
  }


def nothing_sparse(fit: Fit, budget: TrainingBudget) -> str | None:
  """What to say where the fitted runs are dense, and no sparse run was considered either."""
  if budget.max_sparsity > 0 or fit.runs["sparsity"].max() > 0:
    return None
  return "sparsity: the fitted runs are dense, so only dense runs were considered; --max-sparsity 0.8 considers others"


def _warnings(fit: Fit, budget: TrainingBudget, runs: Mapping[str, Candidate]) -> Iterator[str]:
  """What limits the answer: no sparse run, extrapolation, the end of the search, no runnable shape."""
  if text := nothing_sparse(fit, budget):
    yield text
  smallest, largest = search_range(fit)
  size = runs["best"].dense_params
  for bound, fitted in ((smallest, "below the smallest"), (largest, "above the largest")):
    if math.isclose(size, bound, rel_tol=1e-3):
      yield f"search: ends at dense_params {bound:.4g}, {_SIZE_MARGIN:g} times {fitted} fitted run; the best lies beyond"
  if "runnable" not in runs:
    yield (
      f"runnable: no shape of {budget.vocab} words in the vocabulary and --chips {budget.num_chips} keeps "
      f"--max-final-params {budget.max_final_params:g}, give --vocab-size or fewer chips"
    )
  rows: dict[str, list[str]] = {}
  for name, run in runs.items():
    for text in extrapolations(fit, run):
      rows.setdefault(text, []).append(name.replace("_", " "))
  yield from (f"extrapolation: {', '.join(names)}: {text}" for text, names in rows.items())


def search_range(fit: Fit) -> tuple[float, float]:
  """The dense sizes between which the best one is searched."""
  sizes = fit.runs["dense_params"]
  return sizes.min() / _SIZE_MARGIN, sizes.max() * _SIZE_MARGIN


def _columns(dense: Array, sparsity: Array, density: Array, flops: float) -> dict[str, Any]:
  """The columns that laws read, each [n], with D = C / (6 N_avg)."""
  average = dense * density
  return {
    "dense_params": dense,
    "average_params": average,
    "final_params": dense * (1.0 - sparsity),
    "sparsity": sparsity,
    "tokens": flops / (training_flops(1.0, 1.0) * average),
  }


def golden_section(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
  """The minimum [n] of a function with one minimum in each of n brackets [low, high]."""
  for _ in range(_NUM_SECTIONS):
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    goes_left = function(left) <= function(right)
    low, high = np.where(goes_left, low, left), np.where(goes_left, right, high)
  return 0.5 * (low + high)


def _spend(dense_params: float, sparsity: float, budget: TrainingBudget) -> Candidate:
  """The run of this size that uses the whole budget."""
  unit = candidate(dense_params, sparsity, 1.0, budget.schedule)
  return dataclasses.replace(unit, tokens=budget.flops / unit.effective_flops)


def _runnable_shape(best: Candidate, budget: TrainingBudget) -> Shape | None:
  """The LLaMA-2 shape nearest to the best size that some allowed sparsity brings below the cap."""
  at_most = budget.max_final_params / (1.0 - budget.max_sparsity)
  return nearest_shape(best.dense_params, budget.num_chips, at_most, budget.vocab)


def _spend_on(shape: Shape, best: Candidate, budget: TrainingBudget) -> Candidate:
  """The run of a shape. Where its final size would exceed the cap, the sparsity is raised, rounded up to 3 digits."""
  needed = 1.0 - budget.max_final_params / shape.prunable
  sparsity = max(best.sparsity, math.ceil(1000 * needed) / 1000 if needed > 0 else 0.0)
  return _spend(shape.prunable, min(sparsity, budget.max_sparsity), budget)


def _difference(
  fit: Fit, resamples: Bootstrap, best: Candidate, dense: Candidate, budget: TrainingBudget
) -> dict[str, Any]:
  """Loss of the dense alternative minus that of the best run. Each resample predicts both, with scatter."""
  columns = as_columns([best, dense])
  loss, draws = fit.predict(columns), resamples.draws(columns)
  gap = draws[:, 1] - draws[:, 0]
  low, high = (float(end) for end in interval(gap))
  is_clear = best.sparsity > 0 and low > 0
  if best.sparsity == 0:
    is_at_cap = best.final_params >= budget.max_final_params * (1 - _TIE)
    verdict = "a dense run is best: " + ("it has the cap's size" if is_at_cap else "the cap does not bind")
  elif is_clear:
    verdict = f"the sparse run is better: the {LEVEL:.0%} interval of the difference leaves out zero"
  else:
    verdict = f"not distinguishable: the {LEVEL:.0%} interval of the difference holds zero"
  return {
    "loss": float(loss[1] - loss[0]),
    "interval": [low, high],
    "share_of_resamples_sparse_better": float(np.mean(gap > 0)),
    "is_clear": is_clear,
    "verdict": verdict,
  }
