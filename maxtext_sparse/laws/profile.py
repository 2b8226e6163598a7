"""The profile of a fit: the least objective for fixed values of one coefficient, all others fitted again.

Where it rises steeply on both sides, the runs determine the coefficient. Where it is flat on a side, they do not.
"""

import dataclasses

import numpy as np

from maxtext_sparse.laws import Array
from maxtext_sparse.laws.fit import Fit, minimise_from
from maxtext_sparse.laws.law import Coefficient, Law, Runs
from maxtext_sparse.laws.uncertainty import Bootstrap

# The profile goes this many standard errors to each side, with as many points.
_REACH = 3.0
_NUM_POINTS = 9
# A profile that rises by less than this share at its end is open there.
_FLAT = 0.01


@dataclasses.dataclass(frozen=True)
class Profile:
  """The profile of one coefficient.

  Attributes:
    name: of the coefficient.
    values: of the coefficient [k].
    objective: the least objective at each, over that of the fit [k].
  """

  name: str
  values: Array
  objective: Array

  @property
  def is_open(self) -> bool:
    """Whether the objective hardly rises towards an end."""
    return bool(min(self.objective[0], self.objective[-1]) < 1.0 + _FLAT)


class Pinned(Law):
  """A law with one optimised value fixed."""

  def __init__(self, law: Law, index: int, value: float):
    super().__init__(law.name, law.size)
    self._law, self._index, self._value = law, index, value

  @property
  def parameters(self) -> tuple[Coefficient, ...]:
    return tuple(p for index, p in enumerate(self._law.parameters) if index != self._index)

  def features(self, runs: Runs) -> Array:
    return self._law.features(runs)

  def terms(self, theta: Array, *features: Array) -> Array:
    return self._law.terms(np.insert(theta, self._index, self._value), *features)


def profiles(fit: Fit, resamples: Bootstrap) -> list[Profile]:
  """The profile of every coefficient, over 3 standard errors of the optimised value to each side."""
  low, high = np.quantile(resamples.thetas, (0.158655, 0.841345), axis=0)
  return [_profile(fit, index, float(0.5 * (high - low)[index])) for index in range(len(fit.theta))]


def _profile(fit: Fit, index: int, width: float) -> Profile:
  centre = fit.theta[index]
  places = centre + _REACH * (width or 1e-3) * np.linspace(-1.0, 1.0, _NUM_POINTS)
  objective, values = [], []
  # From the fit outwards each point starts where its neighbour ended.
  start = np.delete(fit.theta, index)[None]
  found: dict[int, tuple[float, float]] = {}
  for side in (range(_NUM_POINTS // 2, -1, -1), range(_NUM_POINTS // 2, _NUM_POINTS)):
    theta = start
    for place in side:
      theta, least = minimise_from(Pinned(fit.law, index, places[place]), fit.runs, theta)
      full = np.insert(theta[0], index, places[place])
      found[place] = (list(fit.law.coefficients(full).values())[index], float(least[0]))
  for place in range(_NUM_POINTS):
    values.append(found[place][0])
    objective.append(found[place][1] / fit.objective if fit.objective > 0 else 1.0)
  return Profile(fit.law.parameters[index].name, np.array(values), np.array(objective))
