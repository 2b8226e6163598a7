"""One run as a workload: its name, its command and the checks that both can work on a cluster."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from maxtext_sparse.arguments import check_variables
from maxtext_sparse.cluster.command import Arguments, training_command
from maxtext_sparse.cluster.names import check_name, workload_name
from maxtext_sparse.cluster.placement import Placement
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.run_values import check_values


@dataclasses.dataclass(frozen=True)
class Workload:
  """One run, named and checked.

  Attributes:
    name: name of the workload on the cluster.
    run_name: MaxText's `run_name`.
    command: the bash that the pod executes, see `training_command`.
    placement: where and how it is submitted.
  """

  name: str
  run_name: str
  command: str
  placement: Placement


def make_workload(arguments: Arguments, placement: Placement, name: str | None = None) -> Workload:
  """Checks a run together with its placement.

  Args:
    arguments: the run.
    placement: where and how it is submitted.
    name: name of the workload, also the run's name if it has none. None makes the name from `run_name`.

  Raises:
    ConfigError: naming the first option or key at fault.
  """
  placement.check()
  check_variables(placement.env, arguments.overrides)
  if name is not None:
    check_name("--workload", name)
    arguments = arguments.with_default("run_name", name)
  values = arguments.values
  check_values(values)
  _check_for_a_cluster(values, placement)
  run_name = str(values.get("run_name") or "")
  command = training_command(arguments.words(), placement.exports)
  return Workload(name or workload_name(run_name), run_name, command, placement)


def require_output(values: Mapping[str, Any]) -> None:
  """Raises ConfigError for a run of a pod whose output would be lost, or that could not find it after a restart."""
  for key, example in (("run_name", "s80"), ("base_output_directory", "gs://BUCKET/runs")):
    if not values.get(key):
      raise ConfigError(f"{key}: is missing, give {key}=VALUE such as {example}; a restarted pod resumes from there")


def _check_for_a_cluster(values: Mapping[str, Any], placement: Placement) -> None:
  output = str(values.get("base_output_directory") or "")
  if not output.startswith("gs://"):
    raise ConfigError(f"base_output_directory={output}: a pod's disk is lost with it, must be gs://BUCKET/...")
  hardware = values.get("hardware", "tpu")
  if hardware != "tpu":
    raise ConfigError(f"hardware={hardware}: {placement.tpu_type} is a TPU, must be tpu")
  if placement.max_restarts and values.get("enable_checkpointing") is False:
    raise ConfigError("enable_checkpointing=False: a preempted run could not resume, set True or --max-restarts 0")
