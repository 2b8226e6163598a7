"""Calls xpk as a program. xpk lives in an environment of its own, because its requirements clash with MaxText's."""

from collections.abc import Mapping, Sequence
import os
import shutil
import subprocess
import tempfile

from maxtext_sparse.cluster.jobset import check_manifest
from maxtext_sparse.cluster.quoting import kubernetes_literal, yaml_quoted
from maxtext_sparse.cluster.workload import Workload
from maxtext_sparse.errors import ConfigError, RunError

BOOTSTRAP = "bash launch/xpk.sh"
VARIABLE = "XPK"
# xpk itself restarts a workload that ends with 127 to 255 or with 42, the status of a stopped sparse run. We add 1, the
# status after a lost connection. A config that cannot work ends with 2 and is not restarted.
RESTART_STATUS = 1

_EXISTS = "already exists, do you want to overwrite it?"


class WorkloadExistsError(RunError):
  """The cluster already has a workload of that name."""


class Xpk:
  """An installed xpk."""

  def __init__(self, path: str | None = None):
    """Finds xpk at `path`, or else where the variable XPK says, or else on the PATH.

    Raises:
      ConfigError: there is no such program.
    """
    self.path = _find(path)

  def dry_run(self, workload: Workload) -> str:
    """Returns the JobSet that xpk would submit, as YAML. This needs neither a cluster nor a network.

    Raises:
      RunError: xpk refuses, or the JobSet that it wrote is not what `workload` asks for.
    """
    # xpk writes its settings into HOME. A dry run gives it another one and leaves the user's alone.
    with tempfile.TemporaryDirectory(prefix="maxtext_sparse_") as home:
      manifest = os.path.join(home, "manifest.yaml")
      flags = ["--dry-run", "--skip-validation", f"--output-manifest-file={manifest}"]
      self._call([*create_arguments(workload), *flags], {"HOME": home})
      with open(manifest, encoding="utf-8") as file:
        text = file.read()
    check_manifest(text, workload)
    return text

  def create(self, workload: Workload) -> None:
    """Submits a workload.

    Raises:
      WorkloadExistsError: the cluster already has a workload of that name.
      RunError: xpk failed for another reason. Whether the workload was created is not known.
    """
    self._call(create_arguments(workload), {})

  def _call(self, arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    environment = {"TELEMETRY_ENABLED": "false", **os.environ, **variables}
    environment.pop("PYTHONPATH", None)  # xpk must find its own packages
    # xpk asks whether it shall overwrite a workload that exists. Without an input it fails instead.
    done = subprocess.run(
      [self.path, *arguments],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env=environment,
      check=False,
    )
    if done.returncode != 0:
      reason = _reason(done.stdout)
      error = WorkloadExistsError if _EXISTS in done.stdout else RunError
      raise error(f"{self.path} {' '.join(arguments[:2])}: exit status {done.returncode}: {reason}")


def create_arguments(workload: Workload) -> list[str]:
  """Returns xpk's arguments for `workload`. Flag and value are one word, because a value may begin with a hyphen."""
  placement = workload.placement
  image = ("docker-image", placement.docker_image) if placement.docker_image else ("base-docker-image", None)
  flags = {
    "workload": workload.name,
    "cluster": placement.cluster,
    "project": placement.project,
    "zone": placement.zone,
    "tpu-type": placement.tpu_type,
    "num-slices": placement.num_slices,
    image[0]: image[1] or placement.base_docker_image,
    "priority": placement.priority,
    "max-restarts": placement.max_restarts,
    "restart-on-exit-codes": RESTART_STATUS,
    "command": workload.command,
  }
  variables = [f"--env={name}={env_text(value)}" for name, value in placement.env.items()]
  return ["workload", "create", *(f"--{flag}={value}" for flag, value in flags.items()), *variables, *placement.xpk_flags]


def env_text(value: str) -> str:
  """Returns the text that xpk has to paste between double quotes so that `value` arrives in the pod."""
  return yaml_quoted(kubernetes_literal(value))[1:-1]


def _find(path: str | None) -> str:
  wanted = path or os.environ.get(VARIABLE) or "xpk"
  found = shutil.which(os.path.expanduser(wanted))
  if found is None:
    what = "--xpk" if path else VARIABLE if os.environ.get(VARIABLE) else "xpk on the PATH"
    value = f"={wanted}" if what != "xpk on the PATH" else ""
    raise ConfigError(f"{what}{value}: no such program; `{BOOTSTRAP}` installs xpk in .venv-xpk and says how to name it")
  return found


def _reason(output: str) -> str:
  """Returns the line of xpk's output that says why it failed."""
  lines = [line.removeprefix("[XPK]").strip() for line in output.splitlines() if line.strip()]
  for line in lines:
    if _EXISTS in line:
      return line.partition(", do you want")[0]
  telling = [line for line in lines if not line.startswith(("XPK failed, error code", "Exiting XPK"))]
  return telling[-1][:300] if telling else "no output"
