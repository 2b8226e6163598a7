"""The cheapest run over its life: training plus serving, for a quality that is fixed (after Sardana et al. 2024).

The quality is the loss of the best dense run that the training budget pays for. Every dense size and sparsity reaches it
with some number of tokens D, and the bill of a run is

  6 N_avg D + 2 N_served T,   T tokens served,

or 6 N_dense D + 2 N_served T on training hardware that multiplies the zeros.

N_served is the final size if the serving engine profits from every zero, and the dense size if it profits from none. A
measured engine lies between: its sparse kernel takes time in proportion to the density and is as fast as the dense one
at the break-even density d*, so N_served = N_dense min(1, (1 - S) / d*). With d* = 1 that is the final size.
"""

from collections.abc import Iterable
import dataclasses
import json
import math
import os
from typing import Any

import numpy as np

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import Array
from maxtext_sparse.laws.bills import Bills, break_even_tokens, make_bills, Quality, served_grid, serving_cost, TIE
from maxtext_sparse.laws.fit import Fit
from maxtext_sparse.laws.predict import as_columns, Candidate, extrapolations, predictions
from maxtext_sparse.laws.recommend import best_run, nothing_sparse, search_range, TrainingBudget
from maxtext_sparse.laws.shapes import nearest_shape, Shape
from maxtext_sparse.laws.uncertainty import Bootstrap, LEVEL

_NUM_SIZES = 160
_SPARSITY_STEP = 0.02
# A run that is less sparse than this is as good as dense.
_LEAST_SPARSITY = 0.02
# Runs of a refined grid around the best one, in each direction.
_NUM_FINE = 25
# Resamples that the break-even is computed for, and their coarser grid.
_NUM_RESAMPLES = 50
_COARSE = (120, 0.05)


@dataclasses.dataclass(frozen=True)
class LifeBudget:
  """What a run must be good for.

  Attributes:
    training: the budget whose best dense run sets the quality, and the caps.
    inference_tokens: T, tokens served over the life of the model.
    break_even_density: density at which the engine's sparse kernel is as fast as its dense one: 1 if it profits from
      every zero, 0 if it profits from none.
    trains_dense: whether training is billed at 6 N_dense D.
  """

  training: TrainingBudget
  inference_tokens: float
  break_even_density: float = 1.0
  trains_dense: bool = False

  def __post_init__(self) -> None:
    if not (self.inference_tokens >= 0 and math.isfinite(self.inference_tokens)):
      raise ConfigError(f"--inference-tokens={self.inference_tokens:g}: must be a number of tokens, 0 or more")


@dataclasses.dataclass(frozen=True)
class Life:
  """The answer to a `LifeBudget`.

  Attributes:
    quality: the law and the loss that all runs reach.
    budget: the question.
    bills: all runs considered.
    dense: the cheapest dense run.
    sparse: the cheapest sparse run; None if none reaches the quality within the caps.
    break_even: tokens served from which the cheapest sparse run costs less than the cheapest dense one, or infinity.
    resampled: the same for fits to resamples [r].
    share_cheaper: share of the resamples in which the sparse run is cheaper at the tokens asked for.
  """

  quality: Quality
  budget: LifeBudget
  bills: Bills
  dense: Candidate
  sparse: Candidate | None
  break_even: float
  resampled: Array
  share_cheaper: float

  @property
  def best(self) -> Candidate:
    if self.sparse is None or self.total(self.dense) * (1.0 - TIE) <= self.total(self.sparse):
      return self.dense
    return self.sparse

  def inference(self, run: Candidate) -> float:
    """FLOPs to serve the tokens asked for."""
    cost = serving_cost(np.array([run.dense_params]), np.array([run.sparsity]), self.budget.break_even_density)
    return float(cost[0]) * self.budget.inference_tokens

  def total(self, run: Candidate) -> float:
    """The bill of a run over its life, in FLOPs."""
    return (run.hardware_flops if self.budget.trains_dense else run.effective_flops) + self.inference(run)

  def break_even_ends(self) -> tuple[float, float]:
    """The interval of the break-even over the resamples."""
    low, high = np.quantile(self.resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return float(low), float(high)

  def curves(self) -> tuple[Array, Array, Array]:
    """Tokens served, and the least dense and sparse bills there, each [q]."""
    served = served_grid(self.bills, self.budget.inference_tokens)
    return served, self.bills.totals(served, is_sparse=False), self.bills.totals(served, is_sparse=True)


def live(fit: Fit, resamples: Bootstrap, budget: LifeBudget) -> Life:
  """Finds the cheapest dense and sparse runs over their life, and from where on the sparse one wins.

  Raises:
    ConfigError: the budget is out of reach of the law.
  """
  quality = _quality(fit, budget)
  bills = make_bills(quality, *_axes(fit, budget, _NUM_SIZES, _SPARSITY_STEP), budget.training.max_final_params)
  dense = _refined(quality, budget, bills, is_sparse=False)
  assert dense is not None, "the run that sets the quality reaches it"
  thetas = resamples.thetas[:_NUM_RESAMPLES]
  others = [_resampled(dataclasses.replace(fit, theta=theta), budget) for theta in thetas]
  return Life(
    quality=quality,
    budget=budget,
    bills=bills,
    dense=dense,
    sparse=_refined(quality, budget, bills, is_sparse=True),
    break_even=break_even_tokens(bills),
    resampled=np.array([break_even for break_even, _ in others]),
    share_cheaper=float(np.mean([is_cheaper for _, is_cheaper in others])),
  )


def life_to_dict(life: Life, resamples: Bootstrap) -> dict[str, Any]:
  """What `recommend --inference-tokens --json` prints."""
  budget, best = life.budget, life.best
  runs = {"best": best, "best_dense": life.dense, "best_sparse": life.sparse, "runnable": _runnable(life)}
  known = {name: run for name, run in runs.items() if run is not None}
  rows: dict[str, Any] = dict(zip(known, predictions(life.quality.fit, resamples, list(known.values()))))
  for name, run in known.items():
    rows[name] |= {"inference_flops": life.inference(run), "total_flops": life.total(run)}
  if "runnable" in rows:
    shape = _shape(life)
    rows["runnable"]["shape"] = shape.maxtext_keys() if shape else None
  return {
    "law": life.quality.fit.law.name,
    "budget_flops": budget.training.flops,
    "target_loss": life.quality.loss,
    "inference_tokens": budget.inference_tokens,
    "break_even_density": budget.break_even_density,
    "training_cost": "hardware" if budget.trains_dense else "effective",
    **{name: rows.get(name) for name in runs},
    "inference_flops": life.inference(best),
    "total_flops": life.total(best),
    "break_even_tokens": _finite(life.break_even),
    "break_even_interval": [_finite(end) for end in life.break_even_ends()],
    "share_of_resamples_sparse_cheaper": life.share_cheaper,
    "warnings": _warnings(life, known.values()),
  }


def parse_inference_cost(text: str) -> float:
  """The break-even density that `--inference-cost` stands for.

  Args:
    text: `sparse` (1), `dense` (0), a density, or a JSON file that `bench --json` wrote.

  Raises:
    ConfigError: it is none of these.
  """
  if text in ("sparse", "dense"):
    return float(text == "sparse")
  value: Any = text
  if os.path.isfile(text):
    try:
      with open(text, encoding="utf-8") as file:
        value = json.load(file)["break_even_density"]
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise ConfigError(f"--inference-cost={text}: not a JSON file with break_even_density ({error})") from None
    if value is None:  # the sparse kernel was never faster
      return 0.0
  try:
    density = float(value)
  except (TypeError, ValueError):
    density = math.nan
  if not 0 < density <= 1:
    raise ConfigError(
      f"--inference-cost={text}: must be sparse, dense, the engine's break-even density in (0, 1], or bench's JSON file"
    )
  return density


def _quality(fit: Fit, budget: LifeBudget) -> Quality:
  """The loss of the best dense run that the training budget pays for."""
  dense = best_run(fit, dataclasses.replace(budget.training, min_sparsity=0.0, max_sparsity=0.0))
  loss = float(fit.predict(as_columns([dense]))[0])
  return Quality(fit, loss, budget.training.schedule, budget.break_even_density, budget.trains_dense)


def _axes(fit: Fit, budget: LifeBudget, num_sizes: int, step: float) -> tuple[Array, list[float]]:
  low, high = search_range(fit)
  least, largest = budget.training.min_sparsity, budget.training.max_sparsity
  sparsities = np.unique([0.0, *np.arange(least, largest, step), largest])
  return np.geomspace(low, high, num_sizes), [float(s) for s in sparsities]


def _refined(quality: Quality, budget: LifeBudget, bills: Bills, is_sparse: bool) -> Candidate | None:
  """The cheapest run, searched again on a fine grid around the best of the coarse one."""
  place = bills.best(budget.inference_tokens, is_sparse)
  if place is None:
    return None
  size, sparsity = bills.dense_params[place], bills.sparsity[place]
  around = np.geomspace(size / 1.07, size * 1.07, _NUM_FINE)
  low, high = (
    max(_LEAST_SPARSITY, budget.training.min_sparsity, sparsity - _SPARSITY_STEP),
    min(budget.training.max_sparsity, sparsity + _SPARSITY_STEP),
  )
  sparsities = np.linspace(low, high, _NUM_FINE).tolist() if is_sparse else []
  fine = make_bills(quality, np.append(around, size), [*sparsities, float(sparsity)], budget.training.max_final_params)
  place = fine.best(budget.inference_tokens, is_sparse)
  assert place is not None, "the coarse grid's best run is on the fine one"
  return fine.run(place)


def _resampled(fit: Fit, budget: LifeBudget) -> tuple[float, bool]:
  """Break-even of one resample's law, and whether its sparse run is cheaper at the tokens asked for."""
  bills = make_bills(_quality(fit, budget), *_axes(fit, budget, *_COARSE), budget.training.max_final_params)
  if bills.best(0.0, is_sparse=False) is None:
    return math.inf, False
  return break_even_tokens(bills), bool(bills.sparse_wins(np.array([budget.inference_tokens]))[0])


def _shape(life: Life) -> Shape | None:
  """The LLaMA-2 shape nearest to the best run; None if no shape keeps the cap."""
  budget, best = life.budget.training, life.best
  at_most = budget.max_final_params / (1.0 - best.sparsity)
  return nearest_shape(best.dense_params, budget.num_chips, at_most, budget.vocab)


def _runnable(life: Life) -> Candidate | None:
  """The run of that shape with the tokens that it needs; None if there is no shape or no D is enough."""
  shape, best = _shape(life), life.best
  if shape is None:
    return None
  bills = make_bills(life.quality, np.array([float(shape.prunable)]), [best.sparsity], math.inf)
  return bills.run(0) if np.isfinite(bills.tokens[0]) else None


def _warnings(life: Life, runs: Iterable[Candidate]) -> list[str]:
  fit = life.quality.fit
  texts = dict.fromkeys(text for run in runs for text in extrapolations(fit, run))
  found = [f"extrapolation: {text}" for text in texts]
  if text := nothing_sparse(fit, life.budget.training):
    found.append(text)
  elif life.sparse is None:
    found.append(f"no sparse run reaches the loss {life.quality.loss:.4f} within the caps")
  low, high = search_range(fit)
  if not low * 1.05 < life.best.dense_params < high / 1.05:
    found.append(f"search: ends at dense_params {life.best.dense_params:.4g}; the best lies beyond")
  return found


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None
