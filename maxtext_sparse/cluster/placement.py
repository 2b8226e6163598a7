"""Where and how runs are submitted. What xpk or the cluster would refuse is refused here, before xpk runs."""

from collections.abc import Mapping, Sequence
import dataclasses
import re

from maxtext_sparse.cluster.command import EXPORTS
from maxtext_sparse.cluster.names import check_name
from maxtext_sparse.cluster.quoting import refuse_line_breaks
from maxtext_sparse.cluster.tpu import check_tpu_type
from maxtext_sparse.errors import ConfigError, did_you_mean

PRIORITIES = ("very-low", "low", "medium", "high", "very-high")
_PROJECT = re.compile(r"([a-z][a-z0-9.-]*:)?[a-z][-a-z0-9]*[a-z0-9]")
_ZONE = re.compile(r"[a-z]+-[a-z]+[0-9]+(-[a-z0-9]+)?")
_IMAGE = re.compile(r"[a-zA-Z0-9][\w./:@-]*", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Flags that this package sets, and flags with which xpk would overwrite a running workload or write another manifest.
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
class Placement:
  """Where and how runs are submitted.

  Attributes:
    cluster: name of the GKE cluster.
    project: ID of its Google Cloud project.
    zone: zone of the cluster.
    tpu_type: one slice, such as v5litepod-16.
    docker_image: an image in a registry, used as it is, or None.
    base_docker_image: a local image to which xpk adds the working folder before it uploads the result, or None.
    num_slices: number of slices of that type.
    priority: one of PRIORITIES.
    max_restarts: how often a preempted or failed workload starts again from its last checkpoint.
    env: environment variables of the pod.
    libtpu_args: flags of the TPU compiler (LIBTPU_INIT_ARGS), or None.
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
    _check_at_least("--num-slices", self.num_slices, 1)
    _check_at_least("--max-restarts", self.max_restarts, 0)
    for name, value in self.env.items():
      _check_variable(name, value)
    _check_xpk_flags(self.xpk_flags)

  @property
  def exports(self) -> dict[str, str]:
    """The variables that the command exports. A variable of the same name in `env` wins and is left out here."""
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


def parse_env(assignments: Sequence[str]) -> dict[str, str]:
  """Reads the values of `--env`.

  Raises:
    ConfigError: one of them is not NAME=VALUE, or a name appears twice.
  """
  parsed: dict[str, str] = {}
  for assignment in assignments:
    name, equals, value = assignment.partition("=")
    if not equals:
      raise ConfigError(f"--env={assignment}: has no value, must be NAME=VALUE")
    if name in parsed:
      raise ConfigError(f"--env={assignment}: {name} is given twice, keep one")
    parsed[name] = value
  return parsed


def parse_whole(flag: str, text: str) -> int:
  """Reads the whole number of an option.

  Raises:
    ConfigError: `text` is not a whole number.
  """
  if not (text.isascii() and text.removeprefix("-").isdecimal()):
    raise ConfigError(f"{flag}={text}: must be a whole number")
  return int(text)


def _check_pattern(flag: str, value: str, pattern: re.Pattern[str], right: str) -> None:
  if not pattern.fullmatch(value):
    raise ConfigError(f"{flag}={value}: must be {right}")


def _check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
  if value not in choices:
    hint = did_you_mean(value, choices) or f", must be {', '.join(choices[:-1])} or {choices[-1]}"
    raise ConfigError(f"{flag}={value}: no such value{hint}")


def _check_at_least(flag: str, value: int, minimum: int) -> None:
  if value < minimum:
    raise ConfigError(f"{flag}={value}: must be at least {minimum}")


def _check_variable(name: str, value: str) -> None:
  if not _VARIABLE.fullmatch(name):
    near = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("0123456789") or "NAME"
    raise ConfigError(f"--env={name}: is not the name of a variable, such as {near}")
  refuse_line_breaks(value)


def _check_xpk_flags(flags: Sequence[str]) -> None:
  """Refuses flags that this package sets. xpk's parser takes abbreviations, so `--work=x` would mean `--workload=x`."""
  for flag in flags:
    name = flag.partition("=")[0]
    own = [other for other in _OWN_FLAGS if name.startswith("--") and len(name) > 2 and other.startswith(name)]
    if own:
      raise ConfigError(f"{flag}: this command sets {own[0]} itself, leave it out after --")
