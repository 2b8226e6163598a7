"""From a sweep file to its points: the product of the axes, what each means in MaxText keys, and its name."""

from collections.abc import Mapping
import dataclasses
import itertools
import os
import re
from typing import Any

from maxtext_sparse.config import DEFAULTS
from maxtext_sparse.config_files import flatten, merge_configs
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.sweeps.configs import corpus_keys
from maxtext_sparse.sweeps.filters import holds
from maxtext_sparse.sweeps.spec import Preset, Spec

# How an axis shows in names: prefix, and whether its values are shares of one, shown in percent.
_SHORT = {
  "sparsity": ("s", True),
  "gmp_dense_fraction": ("d", True),
  "gmp_prune_fraction": ("p", True),
  "learning_rate": ("lr", False),
  "batch_tokens": ("b", False),
  "tokens": ("", False),
  "steps": ("t", False),
}


@dataclasses.dataclass(frozen=True)
class Point:
  """One point of the product.

  Attributes:
    labels: axis -> its part of the name.
    axes: axis -> value, the label for an axis of presets.
    files: what the config files say, before any key of the sweep file.
    keys: files and keys together; `tokens` and `batch_tokens` are not resolved yet.
  """

  labels: dict[str, str]
  axes: dict[str, Any]
  files: dict[str, Any]
  keys: dict[str, Any]


def expand(spec: Spec, folder: str) -> list[Point]:
  """Every point that meets the conditions, the last axis varying fastest.

  Args:
    spec: the sweep file.
    folder: where it is; config files are relative to it.

  Raises:
    ConfigError: a config file or a condition is wrong, or no point is left.
  """
  choices = [[(axis, *choice) for choice in _choices(axis, values)] for axis, values in spec.axes.items()]
  points = [_point(spec, folder, chosen) for chosen in itertools.product(*choices)]
  kept = [point for point in points if all(holds(condition, _names(point)) for condition in spec.where)]
  if not kept:
    raise ConfigError(f"where: none of the {len(points)} points meets {' and '.join(spec.where)}")
  return kept


def name_part(axis: str, value: Any) -> str:
  """A value's part of a run's name: sparsity=0.8 is s80, learning_rate=4e-4 is lr4e-4."""
  prefix, is_share = _SHORT.get(axis, (axis + "-", False))
  if is_share and isinstance(value, int | float):
    value = round(100 * value, 6)
  return _slug(prefix + _shown(value))


def _choices(axis: str, values: Any) -> list[tuple[Any, str, Preset]]:
  """Value, part of the name and preset of each choice on an axis."""
  if isinstance(values, dict):
    return [(label, _slug(label), preset) for label, preset in values.items()]
  return [(value, name_part(axis, value), {axis: value}) for value in values]


def _point(spec: Spec, folder: str, chosen: tuple[tuple[str, Any, str, Preset], ...]) -> Point:
  files, keys = list(spec.base), dict(spec.set)
  for axis, _, _, preset in chosen:
    for part in preset if isinstance(preset, list) else [preset]:
      if isinstance(part, str):
        files.append(part)
      elif repeated := sorted(part.keys() & (spec.axes.keys() - {axis})):
        raise ConfigError(f"axes: {axis}: {repeated[0]} is an axis of its own, keep one")
      else:
        keys |= part
  read = flatten(merge_configs([os.path.join(folder, file) for file in files]))
  text = corpus_keys() if spec.corpus is not None else {}
  labels = {axis: label for axis, _, label, _ in chosen}
  return Point(labels, {axis: value for axis, value, _, _ in chosen}, read, read | text | keys)


def _names(point: Point) -> Mapping[str, Any]:
  """What conditions may name; sparsity keys that the sweep leaves alone have their defaults."""
  return DEFAULTS | point.keys | point.axes


def _shown(value: Any) -> str:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return str(value)
  if isinstance(value, int) or value == 0 or abs(value) >= 1e-2:
    return f"{value:.10g}"
  # 0.0004 is 4e-4.
  mantissa, exponent = f"{value:.9e}".split("e")
  return f"{float(mantissa):g}e{int(exponent)}"


def _slug(text: str) -> str:
  """Lower-case letters, digits and single dashes; a decimal point is p."""
  text = re.sub(r"(?<=\d)\.(?=\d)", "p", text.lower())
  return re.sub(r"[^a-z0-9]+", "-", text).strip("-")
