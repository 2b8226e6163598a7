"""The dense twin of the demo's sparse run: a dense model with the sparse run's average number of parameters.

Usually no hidden size has exactly this number. The two neighbours are trained then, and what is said of the twin lies
between theirs, with the planner's weights (`plan/twins.py`).
"""

from collections.abc import Sequence
import dataclasses

from maxtext_sparse.laws.shapes import Shape, shape_of_config
from maxtext_sparse.plan.twins import Twin, TwinFinder
from maxtext_sparse.schedule import Schedule

# What the finder asks about and the recipe leaves at MaxText's defaults.
_DEFAULTS = {"global_parameter_scale": 1, "base_moe_mlp_dim": 0, "model_name": "default"}


def find_twin(recipe_file: str, schedule: Schedule, steps: int, sparsity: float) -> tuple[Shape, Twin]:
  """The shape of the recipe's model, and the twin of the sparse run, without MaxText."""
  shape, keys = shape_of_config(recipe_file)
  average = schedule.active_sum(steps, shape.prunable) / steps
  finder = TwinFinder(_DEFAULTS | dict(keys), lambda overrides: changed(shape, overrides).prunable)
  return shape, finder.find(sparsity, average)


def changed(shape: Shape, overrides: Sequence[str]) -> Shape:
  """The shape with the hidden, feed-forward and head sizes that the overrides set."""
  keys = dict(override.split("=") for override in overrides)
  sizes = {"emb": keys["base_emb_dim"], "mlp": keys["base_mlp_dim"], "head_dim": keys["head_dim"]}
  return dataclasses.replace(shape, **{name: int(value) for name, value in sizes.items()})
