"""Dense twins: dense models of the size that a sparse run has on average (paper section 1, footnote 1).

Only the hidden size changes, and the feed-forward and head sizes in proportion to it. It must be divisible by the
attention heads and by the chips, so usually no size hits the target. Then the twin's loss is interpolated linearly
between the two neighbouring sizes.
"""

import bisect
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import fractions
import functools
import math
from typing import Any

from maxtext_sparse.errors import ConfigError

# The feed-forward sizes, which keep their proportion to the hidden size.
_MLP_KEYS = ("base_mlp_dim", "base_moe_mlp_dim")


@dataclasses.dataclass(frozen=True)
class Neighbour:
  """A dense model next to the target.

  Attributes:
    emb_dim: hidden size.
    num_prunable: its prunable weights.
    weight: its share in the interpolated loss.
    overrides: `key=value` arguments that turn the sparse run's command into this dense run.
  """

  emb_dim: int
  num_prunable: int
  weight: float
  overrides: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Twin:
  """The dense twin of a sparse run: one neighbour if its size is the target, otherwise two with weights."""

  sparsity: float
  average_params: float
  neighbours: tuple[Neighbour, ...]

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


class TwinFinder:
  """Finds the hidden sizes on both sides of an average parameter count."""

  def __init__(self, flat: Mapping[str, Any], count: Callable[[Sequence[str]], int], num_chips: int = 1):
    """Prepares the list of hidden sizes.

    Args:
      flat: keys of the sparse run's config.
      count: returns the prunable weights of the config with the given overrides.
      num_chips: the hidden size is kept divisible by it.
    """
    if flat["global_parameter_scale"] != 1:
      raise ConfigError(f"global_parameter_scale={flat['global_parameter_scale']}: must be 1 for a twin")
    self._flat = flat
    self._unit = hidden_size_unit(flat["base_emb_dim"], flat["base_num_query_heads"], flat["head_dim"], num_chips)
    self._count = functools.cache(lambda emb_dim: count(self.overrides(emb_dim)))

  def overrides(self, emb_dim: int) -> tuple[str, ...]:
    """Arguments that turn the sparse run into the dense one with this hidden size."""
    flat = self._flat
    ratio = fractions.Fraction(emb_dim, flat["base_emb_dim"])
    sizes = {"base_emb_dim": emb_dim} | {key: round(flat[key] * ratio) for key in _MLP_KEYS if flat[key] > 0}
    sizes |= {"head_dim": round(flat["head_dim"] * ratio)}
    if flat["model_name"] != "default":
      sizes |= {"override_model_config": True}
    return (*(f"{key}={value}" for key, value in sizes.items()), "sparsity=0")

  def find(self, sparsity: float, average_params: float) -> Twin:
    """The twin of a run that has this many active prunable weights on average.

    Raises:
      ConfigError: even the smallest hidden size has more.
    """
    sizes = range(self._unit, self._flat["base_emb_dim"] + self._unit, self._unit)
    above = bisect.bisect_left(sizes, average_params, key=self._count)
    above = min(above, len(sizes) - 1)
    if self._count(sizes[above]) == average_params:
      return Twin(sparsity, average_params, (self._neighbour(sizes[above], 1.0),))
    if above == 0:
      raise ConfigError(
        f"twin of {average_params:.4g} weights: the smallest hidden size, {self._unit}, already has "
        f"{self._count(self._unit)}; use fewer --chips"
      )
    return Twin(sparsity, average_params, self._interpolate(sizes[above - 1], sizes[above], average_params))

  def _interpolate(self, below: int, above: int, target: float) -> tuple[Neighbour, Neighbour]:
    """Both neighbours with weights w such that w_below N_below + w_above N_above = target. The loss takes the same w."""
    small, large = self._count(below), self._count(above)
    weight = (target - small) / (large - small)
    return self._neighbour(below, 1.0 - weight), self._neighbour(above, weight)

  def _neighbour(self, emb_dim: int, weight: float) -> Neighbour:
    return Neighbour(emb_dim, self._count(emb_dim), weight, self.overrides(emb_dim))


def hidden_size_unit(emb_dim: int, num_heads: int, head_dim: int, num_chips: int = 1) -> int:
  """The number that a twin's hidden size must be a multiple of.

  It is a multiple of the heads and of the chips (paper section 1, footnote 1). The head size stays in proportion to the
  hidden size, and the unit keeps it a whole and even number, because RoPE rotates pairs.
  """
  ratio = fractions.Fraction(head_dim, emb_dim)
  whole = ratio.denominator * (1 if ratio.numerator % 2 == 0 else 2)
  return math.lcm(whole, num_heads, num_chips)


def twin_finder(arguments: Sequence[str], flat: Mapping[str, Any], num_chips: int) -> TwinFinder:
  """A finder that counts the weights of MaxText's own models.

  Args:
    arguments: the sparse run's `CONFIG ... key=value ...`.
    flat: all keys of that config.
    num_chips: the hidden size is kept divisible by it.
  """
  from maxtext_sparse.plan.models import load_model

  def count(overrides: Sequence[str]) -> int:
    changed = {override.partition("=")[0] for override in overrides}
    kept = [argument for argument in arguments if argument.partition("=")[0] not in changed]
    return load_model([*kept, *overrides]).num_prunable

  return TwinFinder(flat, count, num_chips)
