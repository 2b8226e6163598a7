"""The config that a run was trained with: given by the user, recorded by the run, or read off the checkpoint's shapes."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.export.llama import keys_of_shapes
from maxtext_sparse.runs.record import RunRecord

# What shapes do not tell and a wrong value of which gives another function; said where it is MaxText's default.
_UNSEEN = ("decoder_block", "rope_type", "rope_max_timescale", "normalization_layer_epsilon", "max_target_length")


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """All keys of a MaxText config, whether the run itself recorded them, and lines for the user on what was assumed."""

  flat: Mapping[str, Any]
  is_recorded: bool
  notes: list[str]


def run_config(checkpoint: Checkpoint, arguments: Sequence[str]) -> RunConfig:
  """The config of a checkpoint's run.

  Args:
    checkpoint: the model.
    arguments: `CONFIG ... key=value ...`. CONFIG files are read as MaxText's train reads them. Without one, the keys that
      the plugin recorded beside the checkpoints count; without these, sizes are those of the checkpoint and the rest are
      MaxText's defaults.

  Raises:
    ConfigError: a file or a value that MaxText refuses, or a checkpoint of another family without a config.
  """
  if any("=" not in argument for argument in arguments):
    return RunConfig(_load(arguments), False, [])
  recorded = _recorded(checkpoint)
  if recorded is not None:
    return RunConfig(recorded | _given(arguments, recorded), True, [])
  shapes = keys_of_shapes({path: leaf.shape for path, leaf in checkpoint.leaves.items()})
  flat = _load([*(f"{key}={value}" for key, value in shapes.items()), *arguments])
  assumed = [f"{key}={getattr(flat[key], 'value', flat[key])}" for key in _UNSEEN if not _is_given(key, arguments)]
  return RunConfig(flat, False, [f"no CONFIG given: sizes are those of the checkpoint, assumed are {' '.join(assumed)}"])


def _recorded(checkpoint: Checkpoint) -> dict[str, Any] | None:
  return RunRecord(str(checkpoint.run_folder), is_writer=False).read_config() if checkpoint.run_folder else None


def _given(arguments: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
  """The key=value arguments as values of the recorded keys' types.

  Raises:
    ConfigError: a key that MaxText does not have.
  """
  import yaml

  from maxtext_sparse.config_files import Loader
  from maxtext_sparse.errors import did_you_mean

  given = {}
  for key, _, value in (argument.partition("=") for argument in arguments):
    if key not in known:
      raise ConfigError(f"{key}={value}: no such key{did_you_mean(key, known)}")
    given[key] = yaml.load(value, Loader=Loader)
  return given


def _load(arguments: Sequence[str]) -> dict[str, Any]:
  from maxtext_sparse.plan.models import load_model

  # The data are of no interest here, and may not be on this machine.
  flat = load_model([*arguments, "dataset_type=synthetic"]).flat
  return {
    key: json.loads(json.dumps(value, default=lambda v: getattr(v, "value", str(v)))) for key, value in flat.items()
  }


def _is_given(key: str, arguments: Sequence[str]) -> bool:
  return any(argument.startswith(f"{key}=") for argument in arguments)
