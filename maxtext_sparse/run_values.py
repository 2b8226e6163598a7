"""The values that a run's config files, variables and arguments give together, checked before MaxText sees them.

`arguments.py` checks the words, and this module what they say: the sparsity keys, the length of the run, its name, and
for commands that train the places that it writes to. Nothing here imports jax, so that a mistake is found in a second.
"""

from collections.abc import Mapping, Sequence
import os
import shutil
from typing import Any

from maxtext_sparse.config import check_steps, KEYS, parse_keys, run_steps
from maxtext_sparse.config_files import flatten, merge, merge_configs, parse_yaml, STOCK, stock_name, stock_text
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.files import check_writable
from maxtext_sparse.runs.metrics import latest_rows
from maxtext_sparse.schedule import build_schedule

# A checkpoint of the demo's model, which has 0.75M weights, takes 10 MB. A disk with less than this is full soon.
_LEAST_ROOM = 20_000_000
# Sizes of a model. MaxText takes any number, and fails only when it builds the model, after half a minute.
_SIZES = (
  *("base_emb_dim", "base_num_decoder_layers", "base_num_query_heads", "base_num_kv_heads", "head_dim", "vocab_size"),
  "max_target_length",
)
# What gives the length of a run, and the keys whose values are names and paths.
_LENGTHS = ("steps", "learning_rate_schedule_steps")
_TEXTS = ("run_name", "base_output_directory", "metrics_file")
# Whether a run saves checkpoints, and whether in the format that MaxText has by default.
_SAVING = ("enable_checkpointing", "checkpoint_storage_use_ocdbt")


def given_values(configs: Sequence[str], overrides: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
  """Every key that a run sets itself, with its value. What only MaxText's own files set is missing.

  Args:
    configs: config files, which have been checked. MaxText's own may be among them.
    overrides: `key=value` texts. They win over the variables, and these over the files.
    environment: variables; those that begin with `M_` name keys.
  """
  stock = [name for config in configs if (name := stock_name(config))]
  local = [config for config in configs if not stock_name(config)]
  values: dict[str, Any] = flatten(merge_configs(local)) if local else {"base_config": [*stock, STOCK][0]}
  for name, text in environment.items():
    if name.isupper() and name.startswith("M_") and name[2:].lower() in (*KEYS, "steps", *_SIZES, *_TEXTS, *_SAVING):
      values[name[2:].lower()] = _value(text)
  for key, _, text in (override.partition("=") for override in overrides):
    values = merge(values, _nested(key, _value(text)))
  return values


def check_values(values: Mapping[str, Any], has_length: bool = True) -> None:
  """Checks what a run asks for.

  Args:
    values: as `given_values` returns them.
    has_length: whether the run's length is among them, or else MaxText's default. A plan may get it from elsewhere.

  Raises:
    ConfigError: naming the first key at fault.
  """
  known = {key: value for key, value in values.items() if not is_open(value)}
  if not (values.keys() - known.keys()) & {*KEYS, *_LENGTHS}:
    _check_schedule(known, has_length)
  _check_sizes(known)
  for key in _TEXTS:
    if isinstance(known.get(key), list | dict):
      raise ConfigError(f"{key}={known[key]}: must be text")
  name = str(known.get("run_name") or "")
  if os.path.isabs(name) or ".." in name.split("/"):
    raise ConfigError(f"run_name={name}: the run would leave base_output_directory, must be a name without ..")


def is_open(value: Any) -> bool:
  """Whether MaxText puts something in place of a part of the text, as for ${oc.env:STEPS}. What, only MaxText knows."""
  return isinstance(value, str) and "${" in value


def _check_schedule(values: Mapping[str, Any], has_length: bool) -> None:
  keys = parse_keys(values)
  steps = steps_of(values) if has_length else None
  if steps is not None:
    check_steps(steps)
    if keys.is_active:
      build_schedule(keys, steps)


def _check_sizes(values: Mapping[str, Any]) -> None:
  for key in _SIZES:
    if isinstance(values.get(key), int) and values[key] < 1:
      raise ConfigError(f"{key}={values[key]}: must be at least 1")
  heads, groups = values.get("base_num_query_heads"), values.get("base_num_kv_heads")
  if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
    raise ConfigError(f"base_num_query_heads={heads}: must be a multiple of base_num_kv_heads={groups}")


def check_places(values: Mapping[str, Any]) -> None:
  """Checks that a run can write its output here.

  Raises:
    ConfigError: naming the key, its value, and what is in the way.
  """
  for key in ("base_output_directory", "metrics_file"):
    if str(values.get(key)).startswith("~"):
      whole = os.path.expanduser(str(values[key]))
      raise ConfigError(f"{key}={values[key]}: MaxText would make a folder of the name ~, write {whole}")
  output = values.get("base_output_directory")
  if output and "://" not in str(output) and not is_open(output):
    folder = check_writable("base_output_directory", str(output))
    free = shutil.disk_usage(folder).free
    if free < _LEAST_ROOM:
      raise ConfigError(
        f"base_output_directory={output}: {free // 10**6} MB free on that disk, must be at least "
        f"{_LEAST_ROOM // 10**6} MB; free some or choose another folder"
      )
    if not os.path.isabs(str(output)) and all(_is_on(values, key) for key in _SAVING):
      raise ConfigError(
        f"base_output_directory={output}: MaxText saves checkpoints only below an absolute path, "
        f"write {os.path.abspath(output)}"
      )
  metrics = values.get("metrics_file")
  if metrics and not is_open(metrics):
    _check_metrics_file(str(metrics))


def _is_on(values: Mapping[str, Any], key: str) -> bool:
  """Whether a key is true, by the run's own values or by MaxText's. What MaxText has yet to resolve is not."""
  own = values.get(key)
  return own is True if own is not None else stock_text(str(values.get("base_config", STOCK)), key) == "true"


def _check_metrics_file(path: str) -> None:
  if os.path.exists(path) and not os.path.isfile(path):
    kind = "a folder" if os.path.isdir(path) else "not a regular file"
    raise ConfigError(f"metrics_file={path}: is {kind}, must be the path of a file")
  check_writable("metrics_file", os.path.dirname(os.path.abspath(path)), path)
  if os.path.isfile(path):
    if not os.access(path, os.W_OK):
      raise ConfigError(f"metrics_file={path}: may not be written, choose another file")
    _check_is_metrics(path)


def _check_is_metrics(path: str) -> None:
  """A run replaces this file, so it must be the metrics of an earlier attempt. Each of their lines is a JSON object."""
  with open(path, "rb") as file:
    begins_well = file.read(1) in (b"", b"{")
  try:
    latest_rows(path)
  except ConfigError:
    begins_well = False
  if not begins_well:
    raise ConfigError(f"metrics_file={path}: has something else than MaxText's metrics, choose another file")


def steps_of(values: Mapping[str, Any]) -> int | None:
  """T, the length of a run, None where neither the run nor the installed MaxText says it."""
  steps = run_steps(values)
  if steps == -1 and "steps" not in values:
    text = stock_text(str(values.get("base_config", STOCK)), "steps")
    return run_steps({"steps": text}) if text else None
  return None if steps == -1 else steps


def _nested(key: str, value: Any) -> dict[str, Any]:
  """`lora.rank` is the key `rank` of the mapping `lora`."""
  for part in reversed(key.split(".")):
    value = {part: value}
  return dict(value)


def _value(text: str) -> Any:
  """The value of an argument or a variable as MaxText reads it; the text itself where it is not YAML."""
  try:
    return parse_yaml(text)
  except ValueError:
    return text
