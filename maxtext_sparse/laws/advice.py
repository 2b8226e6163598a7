"""From the options of `recommend` to its answer: for a training budget, for a life, or the best sparsity everywhere."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from maxtext_sparse.amounts import meant_share
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.contours import optimal_sparsity
from maxtext_sparse.laws.fit import Fit
from maxtext_sparse.laws.life import life_to_dict, LifeBudget, live, parse_inference_cost
from maxtext_sparse.laws.recommend import check_reach, recommend, TrainingBudget
from maxtext_sparse.laws.request import FitRequest
from maxtext_sparse.laws.text import contours_text, life_text, recommendation_text
from maxtext_sparse.laws.uncertainty import check_resamples

# Points of each axis of the best sparsities: in the table, and in the figure.
_TABLE_POINTS = 5
_FIGURE_POINTS = 48
_TRAINING_COSTS = ("effective", "hardware")


@dataclasses.dataclass(frozen=True)
class Drawing:
  """What a figure shows: `plots.decide.draw_NAME` draws the data."""

  name: str
  data: Any


@dataclasses.dataclass(frozen=True)
class Advice:
  """An answer as JSON object, as text, and as a figure where it has one."""

  content: dict[str, Any]
  text: str
  drawing: Drawing | None = None


@dataclasses.dataclass(frozen=True)
class Question:
  """The options of `recommend`; see its help.

  Attributes:
    flops: training budget; None if not given.
    max_final_params: cap on the final size, infinite for none.
    max_sparsity: cap on S; None for the largest of the runs.
    num_chips: divides the runnable hidden size.
    vocab: vocabulary of the runnable shape.
    schedule: sparsity keys that differ from the defaults.
    inference_tokens: tokens served; None for a training budget alone.
    inference_cost: what zeros cost when the model is served.
    training_cost: which training FLOPs the bill of a life holds.
    sparsity_alone: the only S to consider, None for all up to `max_sparsity`.
  """

  flops: float | None
  max_final_params: float = math.inf
  max_sparsity: float | None = None
  num_chips: int = 1
  vocab: int = 32_000
  schedule: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  inference_tokens: float | None = None
  inference_cost: str = "sparse"
  training_cost: str = "effective"
  sparsity_alone: float | None = None

  def __post_init__(self) -> None:
    if self.sparsity_alone is not None:
      given = f"--sparsity={self.sparsity_alone:g}"
      if self.max_sparsity is not None:
        raise ConfigError(f"--max-sparsity={self.max_sparsity:g}: {given} is given too, keep one")
      if not 0 <= self.sparsity_alone < 1:
        raise ConfigError(f"{given}: must be a number in [0, 1){meant_share(f'{self.sparsity_alone:g}')}")
    costs = (("training", self.training_cost, "effective"), ("inference", self.inference_cost, "sparse"))
    for name, value, default in costs:
      if self.inference_tokens is None and value != default:
        raise ConfigError(f"--{name}-cost={value}: is about serving, give --inference-tokens too")

  def answer(self, request: FitRequest, num_resamples: int) -> Advice:
    """The best runs for the budget, or over their life where tokens are served.

    Raises:
      ConfigError: an option cannot work, or the budget is out of reach of the law.
    """
    if self.flops is None:
      raise ConfigError("--flops: is missing, give the effective training compute, such as 4.5e20")
    # The options are checked before anything is fitted.
    life = self._life(self._budget(self._asked_sparsity() or 0.0))
    check_resamples(num_resamples)
    fitted = request.fit()
    budget = self._budget(self._largest_sparsity(fitted))
    check_reach(fitted, budget)
    resamples = request.resamples(fitted, num_resamples)
    if life is None:
      content = recommend(fitted, resamples, budget)
      return Advice(content, recommendation_text(content))
    found = live(fitted, resamples, dataclasses.replace(life, training=budget))
    content = life_to_dict(found, resamples)
    return Advice(content, life_text(content), Drawing("life", found))

  def sparsity(self, request: FitRequest) -> Advice:
    """The best sparsity for each final size and budget.

    Raises:
      ConfigError: the law does not know the sparsity.
    """
    if self.flops is not None or self.inference_tokens is not None:
      raise ConfigError("--optimal-sparsity: answers for all budgets, must go without --flops and --inference-tokens")
    if self.sparsity_alone is not None:
      raise ConfigError(f"--sparsity={self.sparsity_alone:g}: --optimal-sparsity searches it, leave it out")
    fitted = request.fit()
    points = (_TABLE_POINTS, _FIGURE_POINTS)
    table, fine = (optimal_sparsity(fitted, self.max_sparsity, self.schedule, number) for number in points)
    return Advice(table.to_dict(), contours_text(table.to_dict()), Drawing("contours", fine))

  def _budget(self, max_sparsity: float) -> TrainingBudget:
    return TrainingBudget(
      self.flops or 0.0,
      self.max_final_params,
      max_sparsity,
      self.num_chips,
      self.vocab,
      self.schedule,
      min_sparsity=self.sparsity_alone or 0.0,
    )

  def _asked_sparsity(self) -> float | None:
    """The largest S that the options allow, None if they leave it to the runs."""
    return self.max_sparsity if self.sparsity_alone is None else self.sparsity_alone

  def _life(self, budget: TrainingBudget) -> LifeBudget | None:
    if self.training_cost not in _TRAINING_COSTS:
      raise ConfigError(f"--training-cost={self.training_cost}: must be {' or '.join(_TRAINING_COSTS)}")
    density = parse_inference_cost(self.inference_cost)
    if self.inference_tokens is None:
      return None
    return LifeBudget(budget, self.inference_tokens, density, self.training_cost == "hardware")

  def _largest_sparsity(self, fitted: Fit) -> float:
    asked = self._asked_sparsity()
    return float(fitted.runs["sparsity"].max()) if asked is None else asked
