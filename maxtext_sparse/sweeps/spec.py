"""Sweep files: what one YAML says, checked before anything is made of it."""

from collections.abc import Sequence
import difflib
from typing import Annotated, Any

import pydantic
import yaml

from maxtext_sparse.config_files import near_file
from maxtext_sparse.errors import ConfigError

# What a value of a key may be; mappings would be presets.
Scalar = bool | int | float | str
# A config file beside the sweep file, keys, or several of both.
Preset = str | dict[str, Any] | list[str | dict[str, Any]]


def _to_list(value: Any) -> Any:
  return [value] if isinstance(value, str) else value


def _labels_to_text(value: Any) -> Any:
  """YAML reads a label such as 80 as a number."""
  return {str(label): preset for label, preset in value.items()} if isinstance(value, dict) else value


_Axis = Annotated[list[Scalar] | dict[str, Preset], pydantic.BeforeValidator(_labels_to_text)]


class CorpusSizes(pydantic.BaseModel, extra="forbid"):
  """Real text that `sweep run` makes in the sweep's folder, as the demo does; defaults are the demo's."""

  train_chars: pydantic.PositiveInt = 8_000_000
  eval_chars: pydantic.PositiveInt = 400_000
  document_chars: pydantic.PositiveInt = 2_600
  vocab_size: pydantic.PositiveInt = 2_048


class Spec(pydantic.BaseModel, extra="forbid"):
  """One sweep file."""

  # Begins the name of every run.
  name: Annotated[str, pydantic.Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
  # MaxText configs, merged left to right; relative to the sweep file.
  base: Annotated[list[str], pydantic.BeforeValidator(_to_list)]
  # MaxText's base_output_directory; relative to the folder that is made.
  output_directory: str = "out"
  # Chips that one run trains on; the batch is this times per_device_batch_size.
  devices: pydantic.PositiveInt = 1
  # {} is the demo's own text.
  corpus: CorpusSizes | None = None
  # Keys of every run.
  set: dict[str, Any] = {}
  # Key -> values, or any name -> {label: preset}; the runs are the product.
  axes: dict[str, _Axis]
  # Conditions that every run must meet.
  where: Annotated[list[str], pydantic.BeforeValidator(_to_list)] = []
  # A dense run as large as each sparse run's average, two neighbours where no size hits it.
  twins: bool = False
  # Train dense prefixes that runs share once.
  trunk: bool = False
  # Steps between the trunks' checkpoints, which are all kept; gmp_pruning_frequency if None.
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
    ConfigError: one line with the first problem.
  """
  try:
    with open(path, encoding="utf-8") as file:
      raw = yaml.safe_load(file)
  except OSError as error:
    raise ConfigError(f"{path}: cannot read this sweep file ({error.strerror}){near_file(path)}") from error
  except (yaml.YAMLError, UnicodeDecodeError) as error:
    raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
  if not isinstance(raw, dict):
    raise ConfigError(f"{path}: not a sweep file, must be a YAML mapping")
  _refuse_unknown(path, raw, list(Spec.model_fields))
  try:
    spec = Spec(**raw)
  except pydantic.ValidationError as error:
    raise ConfigError(f"{path}: {_describe(error)}") from None
  _refuse_doubles(path, spec)
  return spec


def _refuse_unknown(path: str, raw: dict[Any, Any], known: Sequence[str]) -> None:
  for key in raw:
    if key not in known:
      near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
      hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}; MaxText's own go below set:"
      raise ConfigError(f"{path}: {key}: a sweep file has no such key, {hint}")


def _refuse_doubles(path: str, spec: Spec) -> None:
  for key in spec.set:
    if key in spec.axes:
      raise ConfigError(f"{path}: {key}: is below set and below axes, keep one")


def _describe(error: pydantic.ValidationError) -> str:
  first = error.errors()[0]
  # The alternatives of a union are pydantic's names, not keys of the file.
  where = ".".join(str(part) for part in first["loc"][:2])
  if first["type"] == "missing":
    return f"{where}: is missing"
  if first["type"] == "extra_forbidden":
    near = difflib.get_close_matches(str(first["loc"][-1]), list(CorpusSizes.model_fields), n=1)
    return f"{where}: no such key" + (f", did you mean {near[0]}?" if near else "")
  if first["type"] == "string_pattern_mismatch":
    return f"{where}={first['input']}: must be lower-case letters, digits and single dashes, such as law-1b"
  reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
  if first["loc"][0] == "axes" and len(first["loc"]) > 1:
    reason = "must be a list of values, or a mapping of labels to presets (a config file, or keys)"
  return f"{where}: {reason}" if isinstance(first["input"], dict | list) else f"{where}={first['input']}: {reason}"
