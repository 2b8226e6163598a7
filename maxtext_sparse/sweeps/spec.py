"""Sweep files: the keys of the YAML file that describes a study, and the checks before anything is made of it."""

from collections.abc import Sequence
import math
from typing import Annotated, Any

import pydantic

from maxtext_sparse.config_files import read_config
from maxtext_sparse.errors import ConfigError, did_you_mean
from maxtext_sparse.local.corpus import CorpusSettings
from maxtext_sparse.runs.columns import RESULTS

# One value of a key. A mapping in its place would be a preset.
Scalar = bool | int | float | str
# What a label of an axis stands for: a config file beside the sweep file, keys with their values, or several of both.
Preset = str | dict[str, Any] | list[str | dict[str, Any]]

# The paper's largest study has 80 runs. Every run costs a config file and a few milliseconds, and a product of axes this
# large is more often a mistake than a plan.
MOST_POINTS = 5_000

# Keys that `sweep make` sets for each run -> what to write instead.
_SET_BY_MAKE = {
  "run_name": "the sweep names its runs, use name: and the labels of the axes",
  "base_output_directory": "use output_directory:, outside of set:",
  "metrics_file": "each run writes its own metrics file, leave it out",
}


def _to_list(value: Any) -> Any:
  return [value] if isinstance(value, str) else value


def _labels_to_text(value: Any) -> Any:
  """YAML reads a label such as 80 as a number."""
  return {str(label): preset for label, preset in value.items()} if isinstance(value, dict) else value


_Axis = Annotated[list[Scalar] | dict[str, Preset], pydantic.BeforeValidator(_labels_to_text)]


class CorpusSizes(pydantic.BaseModel, extra="forbid"):
  """Sizes of the text that `sweep run` makes in the sweep's folder; the fields are those of `CorpusSettings`."""

  train_chars: pydantic.PositiveInt = CorpusSettings.train_chars
  eval_chars: pydantic.PositiveInt = CorpusSettings.eval_chars
  document_chars: pydantic.PositiveInt = CorpusSettings.document_chars
  vocab_size: pydantic.PositiveInt = CorpusSettings.vocab_size
  packages: bool = CorpusSettings.packages


class Spec(pydantic.BaseModel, extra="forbid"):
  """One sweep file."""

  # The name of every run begins with it.
  name: Annotated[str, pydantic.Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
  # MaxText configs, merged from left to right. Their paths are relative to the sweep file.
  base: Annotated[list[str], pydantic.BeforeValidator(_to_list)]
  # MaxText's base_output_directory, relative to the folder that `sweep make` writes.
  output_directory: str = "out"
  # Number of chips that one run trains on. A batch has this many times per_device_batch_size sequences.
  devices: pydantic.PositiveInt = 1
  # Train on the text of Python's standard library, as the demo does. {} takes the demo's sizes.
  corpus: CorpusSizes | None = None
  # Keys that every run gets.
  set: dict[str, Any] = {}
  # A key with its values, or any name with {label: preset}. The runs are the product of all axes.
  axes: dict[str, _Axis]
  # Only runs that meet all of these conditions are made.
  where: Annotated[list[str], pydantic.BeforeValidator(_to_list)] = []
  # Add for each sparse run a dense run of its average size, or the two neighbours if no hidden size has it.
  twins: bool = False
  # Train the dense steps that several runs share only once.
  trunk: bool = False
  # Steps between the checkpoints of a trunk, which keeps all of them. None stands for gmp_pruning_frequency.
  trunk_checkpoint_period: pydantic.PositiveInt | None = None

  @pydantic.field_validator("axes")
  @classmethod
  def _axes_have_values(cls, axes: dict[str, Any]) -> dict[str, Any]:
    for name, values in axes.items():
      if not values:
        raise ValueError(f"{name} has no values")
      if isinstance(values, list) and len(set(map(repr, values))) < len(values):
        raise ValueError(f"{name} has a value twice")
    return axes


def read_spec(path: str) -> Spec:
  """Reads and checks a sweep file.

  Raises:
    ConfigError: one line about the first problem.
  """
  raw = read_config(path, "sweep file", "sweep file")
  _refuse_unknown(path, raw, list(Spec.model_fields))
  try:
    spec = Spec(**raw)
  except pydantic.ValidationError as error:
    raise ConfigError(f"{path}: {_describe(error)}") from None
  try:
    _refuse_keys(spec)
    _refuse_many(spec)
  except ConfigError as error:
    raise ConfigError(f"{path}: {error}") from None
  return spec


def _refuse_unknown(path: str, raw: dict[Any, Any], known: Sequence[str]) -> None:
  for key in raw:
    if key not in known:
      hint = did_you_mean(str(key), known, cutoff=0.5)
      hint = hint or f", the keys are {', '.join(known)}; MaxText's own go below set:"
      raise ConfigError(f"{path}: {key}: a sweep file has no such key{hint}")


def _refuse_keys(spec: Spec) -> None:
  """Refuses keys that are given twice or that the sweep sets itself, and axes that would hide a column of RUNS.csv."""
  for key in spec.set:
    if key in spec.axes:
      raise ConfigError(f"{key}: is below set and below axes, keep one")
    refuse_key_of_make(key, "set")
  for axis in spec.axes:
    if axis in RESULTS:
      raise ConfigError(f"axes: {axis}: the runs table has a column of this name, choose another name")


def refuse_key_of_make(key: str, place: str) -> None:
  """Raises ConfigError for a key that `sweep make` sets itself, naming the part of the sweep file that has it."""
  if key in _SET_BY_MAKE:
    raise ConfigError(f"{place}: {key}: {_SET_BY_MAKE[key]}")


def _refuse_many(spec: Spec) -> None:
  num_points = math.prod(map(len, spec.axes.values()))
  if num_points > MOST_POINTS:
    sizes = " x ".join(f"{len(values)} {axis}" for axis, values in spec.axes.items())
    raise ConfigError(f"axes: {num_points:,} points ({sizes}), must be at most {MOST_POINTS:,}; split the sweep")


def _describe(error: pydantic.ValidationError) -> str:
  """What is wrong with the first bad field, as `key=value: reason`."""
  first = error.errors()[0]
  # Further parts of the location are names that pydantic gives to the alternatives of a union.
  where = ".".join(str(part) for part in first["loc"][:2])
  if first["type"] == "missing":
    return f"{where}: is missing"
  if first["type"] == "extra_forbidden":
    return f"{where}: no such key{did_you_mean(str(first['loc'][-1]), CorpusSizes.model_fields)}"
  if first["type"] == "string_pattern_mismatch":
    return f"{where}={first['input']}: must be lower-case letters, digits and single dashes, such as law-1b"
  reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
  if first["loc"][0] == "axes" and len(first["loc"]) > 1:
    reason = "must be a list of values, or a mapping of labels to presets (a config file, or keys)"
  return f"{where}: {reason}" if isinstance(first["input"], dict | list) else f"{where}={first['input']}: {reason}"
