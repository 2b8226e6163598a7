"""The training of one run, a value for each step, and the row that it becomes in a runs table."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from maxtext_sparse.laws import Array
from maxtext_sparse.plan.cost import training_flops
from maxtext_sparse.runs.metrics import eval_rows, train_rows

# Steps at the end of training whose mean loss stands in for a missing evaluation.
_LAST_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Curve:
  """The training of one run, a value for each step [t].

  Attributes:
    name: run name.
    step: step number.
    loss: training loss, nats per token.
    active: prunable weights that are active in the step's forward pass.
    tokens: tokens of the step.
    target: target density after the step; all 1 for a dense run.
    eval_loss: last evaluation, or the mean of the last training steps if there is none.
  """

  name: str
  step: Array
  loss: Array
  active: Array
  tokens: Array
  target: Array
  eval_loss: float

  @property
  def sparsity(self) -> float:
    return 1.0 - float(self.target[-1])

  @property
  def flops(self) -> Array:
    """Effective compute up to and including each step [t], 6 N D."""
    flops: Array = np.cumsum(training_flops(1.0, 1.0) * self.active * self.tokens)
    return flops

  @property
  def period(self) -> int:
    """Steps between pruning events; the paper's 100 if the run has at most three."""
    events = self.step[1:][np.diff(self.target) != 0]
    return int(np.median(np.diff(events))) if len(events) > 2 else 100

  def to_row(self) -> dict[str, Any]:
    """The run's row in a runs table."""
    dense = float(self.active[0])
    return {
      "run": self.name,
      "sparsity": self.sparsity,
      "dense_params": dense,
      "average_params": float(self.active.mean()),
      "final_params": dense * float(self.target[-1]),
      "tokens": float(self.tokens.sum()),
      "loss": self.eval_loss,
    }


def make_curve(name: str, rows: Sequence[dict[str, Any]], dense_params: float) -> Curve:
  """The curve of a run.

  Args:
    name: run name.
    rows: metrics rows in MaxText's names, one for each step and evaluation. At least one is a training step.
    dense_params: prunable weights before pruning.
  """
  train = train_rows(rows)
  evals = [row["eval/avg_loss"] for row in eval_rows(rows)]
  loss = _column(train, "learning/loss", np.nan)
  # The count in a row is taken after the step's update, so the next step's forward pass is the first to see it.
  active = np.concatenate([[dense_params], _column(train, "pruning/nonzero_prunable", dense_params)[:-1]])
  return Curve(
    name=name,
    step=_column(train, "step", np.nan),
    loss=loss,
    active=active,
    tokens=_column(train, "learning/total_weights", np.nan),
    target=_column(train, "pruning/target_density", 1.0),
    eval_loss=float(evals[-1] if evals else loss[-_LAST_STEPS:].mean()),
  )


def _column(rows: Sequence[Mapping[str, Any]], name: str, default: float) -> Array:
  return np.array([row.get(name, default) for row in rows], dtype=np.float64)
