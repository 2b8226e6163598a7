"""The best sparsity for each deployed size and training budget (Frantar et al. 2023, section on optimal sparsity).

The question: a model is to have N weights in the end, and the compute that trains a dense model of N weights on D tokens,
6 N D. A sparse run of the same final size starts from N / (1 - S) weights and has N_avg = N / (1 - S) x its average
density, so for the same compute it sees fewer tokens, D_S = D N / N_avg. The best sparsity is the one with the least
predicted loss.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws import Array
from maxtext_sparse.laws.fit import Fit
from maxtext_sparse.laws.predict import candidate

_SPARSITY_STEP = 0.0025
# Sparsities whose loss is within this share of the least one are equally good. The lowest is taken.
_TIE = 1e-6


@dataclasses.dataclass(frozen=True)
class Contours:
  """Best sparsities on a grid.

  Attributes:
    law: name of the law.
    final_params: final sizes [n].
    tokens: tokens that a dense model of that size would see [d].
    sparsity: the best sparsity [n, d].
    max_sparsity: the largest sparsity that was tried.
  """

  law: str
  final_params: Array
  tokens: Array
  sparsity: Array
  max_sparsity: float

  def to_dict(self) -> dict[str, Any]:
    return {
      "law": self.law,
      "max_sparsity": self.max_sparsity,
      "final_params": self.final_params.tolist(),
      "tokens": self.tokens.tolist(),
      "optimal_sparsity": self.sparsity.tolist(),
    }


def optimal_sparsity(fit: Fit, max_sparsity: float | None, schedule: Mapping[str, Any], num_points: int) -> Contours:
  """The best sparsity over the range of final sizes and tokens of the fitted runs.

  Args:
    fit: a law that knows the sparsity.
    max_sparsity: the largest sparsity to try, None for that of the runs.
    schedule: sparsity keys that differ from the defaults.
    num_points: points of each axis, evenly spaced in the logarithm.

  Raises:
    ConfigError: the law does not know the sparsity, or there is no sparsity to try.
  """
  if not fit.law.knows_sparsity:
    raise ConfigError(f"--law={fit.law.name}: leaves the sparsity out, must be average, frantar or a multiplier law")
  if max_sparsity is None:
    max_sparsity = float(fit.runs["sparsity"].max())
    if max_sparsity == 0:
      raise ConfigError(
        "--optimal-sparsity: all runs are dense, so they do not say how far to search; give --max-sparsity, such as 0.8"
      )
  if not 0 < max_sparsity < 1:
    raise ConfigError(f"--max-sparsity={max_sparsity:g}: must be above 0 and below 1 for --optimal-sparsity")
  tried = np.unique(np.append(np.arange(0.0, max_sparsity, _SPARSITY_STEP), max_sparsity))
  density = np.array([candidate(1.0, float(s), 1.0, schedule).average_density for s in tried])
  final, tokens = (
    np.geomspace(fit.runs[column].min(), fit.runs[column].max(), num_points) for column in ("final_params", "tokens")
  )
  losses = _losses(fit, final[:, None, None], tokens[None, :, None], tried, density)
  best = np.argmax(losses <= losses.min(axis=-1, keepdims=True) * (1 + _TIE), axis=-1)
  return Contours(fit.law.name, final, tokens, tried[best], max_sparsity)


def _losses(fit: Fit, final: Array, tokens: Array, sparsity: Array, density: Array) -> Array:
  """Predicted losses [n, d, s] at equal effective compute, 6 N_final D."""
  final, tokens, sparsity, density = np.broadcast_arrays(final, tokens, sparsity, density)
  dense = final / (1.0 - sparsity)
  columns = {
    "dense_params": dense,
    "average_params": dense * density,
    "final_params": final,
    "tokens": tokens * final / (dense * density),
    "sparsity": sparsity,
  }
  losses = fit.predict({name: values.ravel() for name, values in columns.items()})
  return losses.reshape(final.shape)
