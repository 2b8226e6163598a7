"""The profile of a fit: the least objective for fixed values of one coefficient, all others fitted again.

Where it rises steeply on both sides, the runs determine the coefficient. Where it is flat on a side, they do not.
"""

import dataclasses
from typing import Any

import numpy as np

from maxtext_sparse.laws import Array
from maxtext_sparse.laws.fit import Fit, minimise_from
from maxtext_sparse.laws.law import Coefficient, Law, Runs
from maxtext_sparse.laws.text import finite
from maxtext_sparse.laws.uncertainty import Bootstrap

# The profile goes this many standard errors to each side, with as many points.
_REACH = 3.0
_NUM_POINTS = 17
# 95 % of a chi-squared distribution with one degree of freedom. For squares, the likelihood ratio of n runs reaches it
# where the objective is larger by this share over n. Most residuals here are squared, as they are below delta.
_CHI_SQUARED = 3.84


@dataclasses.dataclass(frozen=True)
class Profile:
  """The profile of one coefficient.

  Attributes:
    name: of the coefficient, or what is optimised in its place.
    values: of it [k].
    objective: the least objective at each, over that of the fit [k].
    threshold: where the profile leaves the 95 % interval of the coefficient.
  """

  name: str
  values: Array
  objective: Array
  threshold: float

  @property
  def is_open(self) -> bool:
    """Whether the profile stays inside the 95 % interval up to an end, 3 standard errors away."""
    return bool(min(self.objective[0], self.objective[-1]) < self.threshold)

  def to_dict(self) -> dict[str, Any]:
    return {
      "values": [finite(value) for value in self.values.tolist()],
      "objective": self.objective.tolist(),
      "threshold": self.threshold,
      "is_open": self.is_open,
    }


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
  places = fit.theta[index] + _REACH * (width or 1e-3) * np.linspace(-1.0, 1.0, _NUM_POINTS)
  least = np.empty(_NUM_POINTS)
  middle = _NUM_POINTS // 2
  # Away from the fit, each point starts where its neighbour ended. One start alone can end in a worse optimum, which the
  # picture would show as a step, so the starts that served the fit are tried too.
  others = np.delete(np.vstack([fit.theta, fit.good_starts]), index, axis=1)
  for side in (range(middle, -1, -1), range(middle, _NUM_POINTS)):
    neighbour = others[:1]
    for place in side:
      law = Pinned(fit.law, index, places[place])
      theta, objective = minimise_from(law, fit.runs, np.vstack([neighbour, others]))
      neighbour, least[place] = theta[[objective.argmin()]], objective.min()
  parameter = fit.law.parameters[index]
  return Profile(
    name=fit.law.optimised_as.get(parameter.name, parameter.name),
    values=np.exp(places) if parameter.is_log else places,
    objective=least / fit.objective if fit.objective > 0 else np.ones(_NUM_POINTS),
    threshold=1.0 + _CHI_SQUARED / len(fit.runs),
  )
