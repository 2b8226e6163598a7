"""What is submitted: a cluster, the settings of a workload, and their checks. All is refused here, before xpk runs."""

from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import re
from typing import Any

from maxtext_sparse.cluster.arguments import Arguments
from maxtext_sparse.cluster.command import EXPORTS, training_command
from maxtext_sparse.cluster.names import check_name, workload_name
from maxtext_sparse.cluster.quoting import refuse_line_breaks
from maxtext_sparse.cluster.tpu import check_tpu_type
from maxtext_sparse.config import parse_keys, run_steps
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.schedule import build_schedule

PRIORITIES = ("very-low", "low", "medium", "high", "very-high")
_PROJECT = re.compile(r"([a-z][a-z0-9.-]*:)?[a-z][-a-z0-9]*[a-z0-9]")
_ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+(-[a-z0-9]+)?")
_IMAGE = re.compile(r"[a-zA-Z0-9][\w./:@-]*", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# xpk's flags that this package sets, or that would make it overwrite a running workload or write another manifest.
_OWN_FLAGS = (
  "--base-docker-image",
  "--cluster",
  "--command",
  "--device-type",
  "--docker-image",
  "--dry-run",
  "--env",
  "--env-file",
  "--max-restarts",
  "--no-dry-run",
  "--num-slices",
  "--output-manifest-file",
  "--priority",
  "--project",
  "--quiet",
  "--skip-validation",
  "--tpu-type",
  "--use-pathways",
  "--workload",
  "--zone",
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """How runs are submitted.

  Attributes:
    cluster, project, zone: where.
    tpu_type: a slice, such as v5litepod-16.
    docker_image: an image in a registry, used as it is; or None.
    base_docker_image: an image that xpk adds the working folder to, builds and uploads; or None.
    num_slices: slices of that type.
    priority: one of PRIORITIES.
    max_restarts: how often a preempted or failed workload starts again, from its last checkpoint.
    env: environment variables of the pod.
    libtpu_args: LIBTPU_INIT_ARGS, flags of the TPU compiler; or None.
    xpk_flags: further arguments of `xpk workload create`.
  """

  cluster: str
  project: str
  zone: str
  tpu_type: str
  docker_image: str | None = None
  base_docker_image: str | None = None
  num_slices: int = 1
  priority: str = "medium"
  max_restarts: int = 10
  env: Mapping[str, str] = dataclasses.field(default_factory=dict)
  libtpu_args: str | None = None
  xpk_flags: tuple[str, ...] = ()

  def check(self) -> None:
    """Raises ConfigError for the first value that cannot work."""
    self._check_present()
    check_name("--cluster", self.cluster)
    _check_pattern("--project", self.project, _PROJECT, "a project ID such as my-project")
    _check_pattern("--zone", self.zone, _ZONE, "a zone such as us-central2-b")
    check_tpu_type(self.tpu_type)
    for flag, image in (("--docker-image", self.docker_image), ("--base-docker-image", self.base_docker_image)):
      if image is not None:
        _check_pattern(flag, image, _IMAGE, "an image such as gcr.io/my-project/maxtext-sparse:1")
    _check_choice("--priority", self.priority, PRIORITIES)
    _check_whole("--num-slices", self.num_slices, 1)
    _check_whole("--max-restarts", self.max_restarts, 0)
    for name, value in self.env.items():
      _check_variable(name, value)
    _check_xpk_flags(self.xpk_flags)

  @property
  def exports(self) -> dict[str, str]:
    """What the command exports: an `--env` of the same name wins."""
    given = {"LIBTPU_INIT_ARGS": self.libtpu_args} if self.libtpu_args else {}
    return {name: value for name, value in (EXPORTS | given).items() if name not in self.env}

  def _check_present(self) -> None:
    required = {"--cluster": self.cluster, "--project": self.project, "--zone": self.zone, "--tpu-type": self.tpu_type}
    missing = [flag for flag, value in required.items() if not value]
    if not (self.docker_image or self.base_docker_image):
      missing.append("--docker-image")
    if missing:
      raise ConfigError(f"{', '.join(missing)}: missing, must be given")
    if self.docker_image and self.base_docker_image:
      raise ConfigError(f"--base-docker-image={self.base_docker_image}: --docker-image is given too, keep one")


@dataclasses.dataclass(frozen=True)
class Workload:
  """One run, named and checked.

  Attributes:
    name: of the workload.
    run_name: MaxText's.
    command: what the pod runs, see `training_command`.
    settings: where and how.
  """

  name: str
  run_name: str
  command: str
  settings: Settings


def make_workload(arguments: Arguments, settings: Settings, name: str | None = None, is_real: bool = True) -> Workload:
  """Checks a run and its settings.

  Args:
    arguments: the run.
    settings: where and how.
    name: of the workload; made from `run_name` where None, and the run's name where it has none.
    is_real: the run shall train, not only be shown: its output must outlive the pod.

  Raises:
    ConfigError: naming the first flag or key at fault.
  """
  settings.check()
  if name is not None:
    check_name("--workload", name)
    arguments = arguments.with_default("run_name", name)
  values = arguments.values
  check_sparsity(values)
  if is_real:
    _check_for_a_cluster(values, settings)
  run_name = str(values.get("run_name") or "")
  command = training_command(arguments.words(), settings.exports)
  return Workload(name or workload_name(run_name), run_name, command, settings)


def check_sparsity(values: Mapping[str, Any]) -> None:
  """Refuses here what the plugin would refuse in the pod: bad sparsity keys, or events that do not fit into the run.

  Raises:
    ConfigError: naming the first key at fault.
  """
  keys = parse_keys(values)
  if keys.is_active and "steps" in values:
    build_schedule(keys, run_steps(values))


def parse_env(assignments: Sequence[str]) -> dict[str, str]:
  """Reads `NAME=VALUE` texts.

  Raises:
    ConfigError: one has no value.
  """
  for assignment in assignments:
    if "=" not in assignment:
      raise ConfigError(f"--env={assignment}: no value, must be NAME=VALUE")
  return dict(assignment.split("=", 1) for assignment in assignments)


def parse_whole(flag: str, text: str) -> int:
  """A flag's whole number.

  Raises:
    ConfigError: it is none.
  """
  if not (text.isascii() and text.removeprefix("-").isdecimal()):
    raise ConfigError(f"{flag}={text}: must be a whole number")
  return int(text)


def _check_for_a_cluster(values: Mapping[str, Any], settings: Settings) -> None:
  output = str(values.get("base_output_directory") or "")
  if not output.startswith("gs://"):
    raise ConfigError(f"base_output_directory={output}: a pod's disk is lost with it, must be gs://BUCKET/...")
  hardware = values.get("hardware", "tpu")
  if hardware != "tpu":
    raise ConfigError(f"hardware={hardware}: {settings.tpu_type} is a TPU, must be tpu")
  if settings.max_restarts and values.get("enable_checkpointing") is False:
    raise ConfigError("enable_checkpointing=False: a preempted run could not resume, set True or --max-restarts 0")


def _check_pattern(flag: str, value: str, pattern: re.Pattern[str], right: str) -> None:
  if not pattern.fullmatch(value):
    raise ConfigError(f"{flag}={value}: must be {right}")


def _check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
  if value not in choices:
    near = difflib.get_close_matches(value, choices, n=1)
    hint = f"did you mean {near[0]}?" if near else f"must be {', '.join(choices[:-1])} or {choices[-1]}"
    raise ConfigError(f"{flag}={value}: no such value, {hint}")


def _check_whole(flag: str, value: int, minimum: int) -> None:
  if value < minimum:
    raise ConfigError(f"{flag}={value}: must be at least {minimum}")


def _check_variable(name: str, value: str) -> None:
  if not _VARIABLE.fullmatch(name):
    near = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("0123456789") or "NAME"
    raise ConfigError(f"--env={name}: not a name of a variable, such as {near}")
  refuse_line_breaks(value)


def _check_xpk_flags(flags: Sequence[str]) -> None:
  """xpk's parser takes abbreviations, so `--work=x` would be `--workload=x`."""
  for flag in flags:
    name = flag.partition("=")[0]
    own = [other for other in _OWN_FLAGS if name.startswith("--") and len(name) > 2 and other.startswith(name)]
    if own:
      raise ConfigError(f"{flag}: {own[0]} is set by this command, leave it out after --")
