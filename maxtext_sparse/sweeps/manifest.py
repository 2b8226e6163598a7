"""The folder that `sweep make` writes: `manifest.json` and one resolved config per run, `runs/NAME.yml`."""

import dataclasses
import json
import os
from typing import Any

import yaml

from maxtext_sparse.errors import ConfigError

FORMAT = 1
_FILE = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a sweep.

  Attributes:
    name: unique; also MaxText's `run_name` and the run's folder.
    kind: `run`, or `trunk` for a dense prefix that several runs share.
    config: its config file, relative to the sweep's folder.
    steps: what the config trains to.
    trunk: the run it branches from, None where it starts from nothing.
    branch_step: the trunk's checkpoint that it starts from: the state after this step.
    digest: sha256 of the config file.
    axes: its values on the sweep's axes; a twin has those of its sparse run.
    num_prunable: prunable weights of the dense model.
    batch_tokens: tokens a step.
  """

  name: str
  kind: str
  config: str
  steps: int
  trunk: str | None
  branch_step: int | None
  digest: str
  axes: dict[str, Any] = dataclasses.field(default_factory=dict)
  num_prunable: int = 0
  batch_tokens: int = 0

  @property
  def num_own_steps(self) -> int:
    """Steps that it trains itself; its trunk has done the others."""
    return self.steps - (0 if self.branch_step is None else self.branch_step + 1)


@dataclasses.dataclass(frozen=True)
class Manifest:
  """A sweep's folder.

  Attributes:
    directory: where it is.
    name: the sweep's name.
    output_directory: MaxText's `base_output_directory`; relative to `directory` unless a URL.
    runs: every trunk before its branches.
    spec: the sweep file as read.
  """

  directory: str
  name: str
  output_directory: str
  runs: tuple[Run, ...]
  spec: dict[str, Any] = dataclasses.field(default_factory=dict)

  def find(self, name: str) -> Run:
    return next(run for run in self.runs if run.name == name)

  @property
  def num_trunks(self) -> int:
    return sum(run.kind == "trunk" for run in self.runs)

  @property
  def num_runs(self) -> int:
    return len(self.runs) - self.num_trunks

  @property
  def steps(self) -> int:
    """Steps that are trained, trunks included."""
    return sum(run.num_own_steps for run in self.runs)

  @property
  def steps_alone(self) -> int:
    """Steps of all runs if each trained its own prefix."""
    return sum(run.steps for run in self.runs if run.kind == "run")

  @property
  def saved(self) -> float:
    """Share of all steps that trunks save."""
    return 1.0 - self.steps / self.steps_alone

  @property
  def output_path(self) -> str:
    """Where the runs' folders are: absolute, or a URL."""
    if "://" in self.output_directory:
      return self.output_directory
    return os.path.abspath(os.path.join(self.directory, self.output_directory))

  def config_path(self, run: Run) -> str:
    return os.path.join(self.directory, run.config)

  def run_directory(self, run: Run) -> str:
    """The run's folder, where MaxText writes its checkpoints: absolute, or a URL."""
    return f"{self.output_path.rstrip('/')}/{run.name}"

  def load_config(self, run: Run) -> dict[str, Any]:
    """All keys of a run's config.

    Raises:
      ConfigError: the file is missing or was changed by hand.
    """
    path = self.config_path(run)
    try:
      with open(path, encoding="utf-8") as file:
        config = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
      raise ConfigError(f"{path}: cannot read this config, make the sweep again ({_reason(error)})") from error
    if not isinstance(config, dict):
      raise ConfigError(f"{path}: not a MaxText config, make the sweep again")
    return config

  def as_text(self) -> str:
    content = {
      "format": FORMAT,
      "name": self.name,
      "spec": self.spec,
      "output_directory": self.output_directory,
      "runs": [dataclasses.asdict(run) for run in self.runs],
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def manifest_path(directory: str) -> str:
  return os.path.join(directory, _FILE)


def read_manifest(directory: str) -> Manifest:
  """Reads a sweep's folder.

  Raises:
    ConfigError: there is none, or not one that this version wrote.
  """
  path = manifest_path(directory)
  try:
    with open(path, encoding="utf-8") as file:
      raw = json.load(file)
    if raw["format"] != FORMAT:
      raise ConfigError(f"{path}: format {raw['format']}, this version reads format {FORMAT}; make the sweep again")
    runs = tuple(Run(**fields) for fields in raw["runs"])
    return Manifest(directory, raw["name"], raw["output_directory"], runs, raw["spec"])
  except OSError as error:
    raise ConfigError(f"{directory}: not a sweep's folder, make one with: sweep make SPEC --out {directory}") from error
  except (ValueError, TypeError, KeyError) as error:
    if isinstance(error, ConfigError):
      raise
    raise ConfigError(f"{path}: not a sweep's manifest ({_reason(error)}), make the sweep again") from error


def _reason(error: Exception) -> str:
  return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
