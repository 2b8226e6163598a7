"""The points of a sweep file: every combination of the axes, with its MaxText keys and its part of the run's name."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import glob
import itertools
import os
import re
from typing import Any

from maxtext_sparse.config import DEFAULTS
from maxtext_sparse.config_files import flatten, merge_configs
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.sweeps.filters import holds
from maxtext_sparse.sweeps.spec import Preset, refuse_key_of_make, Spec

# How an axis shows in names: its prefix, and whether its values are shares of one, which are shown in percent.
_SHORT = {
  "sparsity": ("s", True),
  "gmp_dense_fraction": ("d", True),
  "gmp_prune_fraction": ("p", True),
  "learning_rate": ("lr", False),
  "batch_tokens": ("b", False),
  "tokens": ("", False),
  "steps": ("t", False),
}

# Reads and merges config files, given by absolute paths.
_ReadFiles = Callable[[tuple[str, ...]], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Point:
  """One combination of the axes' values.

  Attributes:
    labels: axis -> its part of the run's name.
    axes: axis -> value; for an axis of presets the value is the label.
    files: the keys of the config files alone.
    keys: the keys of the files and of the sweep file together, `tokens` and `batch_tokens` among them.
  """

  labels: dict[str, str]
  axes: dict[str, Any]
  files: Mapping[str, Any]
  keys: dict[str, Any]


def expand(spec: Spec, folder: str) -> list[Point]:
  """All points that meet the conditions; the last axis varies fastest.

  Args:
    spec: the sweep file.
    folder: the sweep file's folder, in which config files are looked up.

  Raises:
    ConfigError: a config file or a condition is wrong, or no point meets the conditions.
  """
  choices = [[(axis, *choice) for choice in _choices(axis, values)] for axis, values in spec.axes.items()]
  # Many points share their files.
  read_files = functools.cache(lambda paths: flatten(merge_configs(paths)))
  points = [_point(spec, folder, chosen, read_files) for chosen in itertools.product(*choices)]
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


def corpus_keys() -> dict[str, Any]:
  """Keys that read the text in the sweep's folder. Paths are relative to that folder, in which `sweep run` trains."""
  return {
    "dataset_type": "grain",
    "grain_file_type": "parquet",
    # MaxText reads these two as glob patterns.
    "grain_train_files": glob.escape("corpus/train.parquet"),
    "grain_eval_files": glob.escape("corpus/eval.parquet"),
    "tokenizer_type": "sentencepiece",
    "tokenizer_path": "corpus/vocabulary.model",
    "train_data_columns": ["text"],
    "eval_data_columns": ["text"],
  }


def _choices(axis: str, values: Any) -> list[tuple[Any, str, Preset]]:
  """Value, part of the name and preset of each choice on an axis."""
  if isinstance(values, dict):
    return [(label, _slug(label), preset) for label, preset in values.items()]
  return [(value, name_part(axis, value), {axis: value}) for value in values]


def _point(spec: Spec, folder: str, chosen: tuple[tuple[str, Any, str, Preset], ...], read_files: _ReadFiles) -> Point:
  files, keys = list(spec.base), dict(spec.set)
  for axis, _, _, preset in chosen:
    for part in preset if isinstance(preset, list) else [preset]:
      if isinstance(part, str):
        files.append(part)
      else:
        _check_preset(spec, axis, part)
        keys |= part
  read = read_files(tuple(os.path.join(folder, file) for file in files))
  text = corpus_keys() if spec.corpus is not None else {}
  labels = {axis: label for axis, _, label, _ in chosen}
  return Point(labels, {axis: value for axis, value, _, _ in chosen}, read, {**read, **text, **keys})


def _check_preset(spec: Spec, axis: str, preset: Mapping[str, Any]) -> None:
  for key in sorted(preset):
    refuse_key_of_make(key, f"axes: {axis}")
    if key != axis and key in spec.axes:
      raise ConfigError(f"axes: {axis}: {key} is an axis of its own, keep one")


def _names(point: Point) -> Mapping[str, Any]:
  """What the names in a condition stand for. Sparsity keys that the sweep does not set have their defaults."""
  return DEFAULTS | point.keys | point.axes


def _shown(value: Any) -> str:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return str(value)
  if isinstance(value, int) or value == 0 or abs(value) >= 1e-2:
    return f"{value:.10g}"
  # 0.0004 is shown as 4e-4.
  mantissa, exponent = f"{value:.9e}".split("e")
  return f"{float(mantissa):g}e{int(exponent)}"


def _slug(text: str) -> str:
  """Lower-case letters, digits and single dashes; a decimal point becomes the letter p."""
  text = re.sub(r"(?<=\d)\.(?=\d)", "p", text.lower())
  return re.sub(r"[^a-z0-9]+", "-", text).strip("-")
