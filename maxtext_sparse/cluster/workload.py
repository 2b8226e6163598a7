"""One run as a workload: its name, its command and the checks that both can work on a cluster."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from maxtext_sparse.arguments import check_variables
from maxtext_sparse.cluster.command import Arguments, training_command
from maxtext_sparse.cluster.names import check_name, workload_name
from maxtext_sparse.cluster.placement import Placement
from maxtext_sparse.config import parse_keys, run_steps
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.schedule import build_schedule


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


def make_workload(arguments: Arguments, placement: Placement, name: str | None = None, is_real: bool = True) -> Workload:
  """Checks a run together with its placement.

  Args:
    arguments: the run.
    placement: where and how it is submitted.
    name: name of the workload, also the run's name if it has none. None makes the name from `run_name`.
    is_real: the run will train and not only be shown, so its output must outlive the pod.

  Raises:
    ConfigError: naming the first option or key at fault.
  """
  placement.check()
  check_variables(placement.env, arguments.overrides)
  if name is not None:
    check_name("--workload", name)
    arguments = arguments.with_default("run_name", name)
  values = arguments.values
  check_sparsity(values)
  if is_real:
    _check_for_a_cluster(values, placement)
  run_name = str(values.get("run_name") or "")
  command = training_command(arguments.words(), placement.exports)
  return Workload(name or workload_name(run_name), run_name, command, placement)


def check_sparsity(values: Mapping[str, Any]) -> None:
  """Refuses what the plugin would refuse in the pod: bad sparsity keys, and pruning events that do not fit into the run.

  Raises:
    ConfigError: naming the first key at fault.
  """
  keys = parse_keys(values)
  if keys.is_active and "steps" in values:
    build_schedule(keys, run_steps(values))


def _check_for_a_cluster(values: Mapping[str, Any], placement: Placement) -> None:
  output = str(values.get("base_output_directory") or "")
  if not output.startswith("gs://"):
    raise ConfigError(f"base_output_directory={output}: a pod's disk is lost with it, must be gs://BUCKET/...")
  hardware = values.get("hardware", "tpu")
  if hardware != "tpu":
    raise ConfigError(f"hardware={hardware}: {placement.tpu_type} is a TPU, must be tpu")
  if placement.max_restarts and values.get("enable_checkpointing") is False:
    raise ConfigError("enable_checkpointing=False: a preempted run could not resume, set True or --max-restarts 0")
