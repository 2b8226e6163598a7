"""The folder that `sweep make` writes: `manifest.json`, and the complete config of each run in `runs/NAME.yml`."""

from collections.abc import Mapping
import dataclasses
import json
import os
from typing import Any

from maxtext_sparse.config_files import dump, read_config, STOCK
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.listing import Listing

FORMAT = 1
_FILE = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a sweep.

  Attributes:
    name: unique in the sweep; also MaxText's `run_name` and the name of the run's folder.
    kind: `run`, or `trunk` for a run that trains the dense steps which several runs share.
    config: path of its config file, relative to the sweep's folder.
    steps: number of steps that its config trains for.
    trunk: name of the trunk that it starts from, None if it starts from new weights.
    branch_step: step of the trunk's checkpoint that it starts from, which holds the state after that step.
    digest: sha256 of the config file.
    axes: axis -> its value; a twin has the values of its sparse run.
    num_prunable: number of prunable weights of the dense model.
    batch_tokens: tokens per step.
    flops_per_token: model FLOPs of training on one token.
    num_events: number of its pruning events, None for a dense run.
    effective_flops: 6 B sum_t N(t) of all its steps, those of its trunk included.
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
  flops_per_token: float = 0.0
  num_events: int | None = None
  effective_flops: float = 0.0

  @property
  def num_own_steps(self) -> int:
    """Number of steps that the run trains itself. Its trunk trains the others."""
    return self.steps - (0 if self.branch_step is None else self.branch_step + 1)

  def to_dict(self) -> dict[str, Any]:
    """All fields, for JSON."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The content of a sweep's folder.

  Attributes:
    directory: the folder.
    name: the sweep's name.
    output_directory: MaxText's `base_output_directory`: a URL, or a path relative to `directory`.
    runs: all runs; a trunk comes before its branches.
    spec: the fields of the sweep file.
    listing: what the runs had in their bucket at some moment, None if nobody has looked.
  """

  directory: str
  name: str
  output_directory: str
  runs: tuple[Run, ...]
  spec: dict[str, Any] = dataclasses.field(default_factory=dict)
  listing: Listing | None = dataclasses.field(default=None, compare=False, repr=False)

  def find(self, name: str) -> Run:
    """The run of this name, which must be one of the sweep."""
    return next(run for run in self.runs if run.name == name)

  @property
  def num_trunks(self) -> int:
    """Number of runs that are trunks."""
    return sum(run.kind == "trunk" for run in self.runs)

  @property
  def num_runs(self) -> int:
    """Number of runs without the trunks."""
    return len(self.runs) - self.num_trunks

  @property
  def steps(self) -> int:
    """Number of steps that are trained in all, those of the trunks included."""
    return sum(run.num_own_steps for run in self.runs)

  @property
  def steps_alone(self) -> int:
    """Number of steps that the runs would train if there were no trunks."""
    return sum(run.steps for run in self.runs if run.kind == "run")

  @property
  def saved(self) -> float:
    """Share of `steps_alone` that the trunks save."""
    return 1.0 - self.steps / self.steps_alone

  @property
  def output_path(self) -> str:
    """The folder of the runs' folders: an absolute path or a URL."""
    if "://" in self.output_directory:
      return self.output_directory
    return os.path.abspath(os.path.join(self.directory, self.output_directory))

  def config_path(self, run: Run) -> str:
    """Path of a run's config file."""
    return os.path.join(self.directory, run.config)

  def run_directory(self, run: Run) -> str:
    """The folder in which MaxText writes a run's checkpoints: an absolute path or a URL."""
    return f"{self.output_path.rstrip('/')}/{run.name}"

  def load_config(self, run: Run) -> dict[str, Any]:
    """All keys of a run's config file.

    Raises:
      ConfigError: the file is missing or is not a config any more.
    """
    try:
      return read_config(self.config_path(run))
    except ConfigError as error:
      raise ConfigError(f"{error}; make the sweep again") from error

  def as_text(self) -> str:
    """The content of manifest.json."""
    content = {
      "format": FORMAT,
      "name": self.name,
      "spec": self.spec,
      "output_directory": self.output_directory,
      "runs": [run.to_dict() for run in self.runs],
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def config_text(config: Mapping[str, Any]) -> str:
  """The content of a run's config file. Equal configs give equal texts, whatever the order of their keys."""
  head = {"base_config": config.get("base_config", STOCK)}
  rest = {key: config[key] for key in sorted(config) if key != "base_config"}
  return dump(head | rest, default_flow_style=None, width=120)


def manifest_path(directory: str) -> str:
  """Path of manifest.json in a sweep's folder."""
  return os.path.join(directory, _FILE)


def read_manifest(directory: str) -> Manifest:
  """Reads the manifest of a sweep's folder.

  Raises:
    ConfigError: the folder has no manifest, or one that this version cannot read.
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
    # A folder of something else, or the sweep file itself, cannot become a sweep's folder.
    out = "DIR" if os.path.exists(directory) else directory
    raise ConfigError(f"{directory}: not a sweep's folder, make one with: sweep make SPEC --out {out}") from error
  except (ValueError, TypeError, KeyError) as error:
    if isinstance(error, ConfigError):
      raise
    reason = str(error).splitlines()[0]
    raise ConfigError(f"{path}: not a sweep's manifest ({reason}), make the sweep again") from error
