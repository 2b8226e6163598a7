"""Checks that a JobSet manifest is well formed and is what the user asked for. xpk reports success even if it is not."""

from collections.abc import Iterator
import math
from typing import Any

import yaml

from maxtext_sparse.cluster.quoting import kubernetes_literal
from maxtext_sparse.cluster.tpu import family_of, tpu_types
from maxtext_sparse.cluster.workload import Workload
from maxtext_sparse.errors import RunError

API_VERSION = "jobset.x-k8s.io/v1alpha2"
ACCELERATOR = "cloud.google.com/gke-tpu-accelerator"
TOPOLOGY = "cloud.google.com/gke-tpu-topology"
TPU = "google.com/tpu"


def check_manifest(text: str, workload: Workload) -> dict[str, Any]:
  """Parses a manifest and compares it with the workload that it was made for.

  Returns:
    The JobSet.

  Raises:
    RunError: `text` is not YAML, not a JobSet, or not that of `workload`. The message names the first field at fault.
  """
  jobset = parse_jobset(text)
  for field, found, wanted in _comparisons(jobset, workload):
    if found != wanted:
      raise RunError(f"manifest of {workload.name}: {field} is {found!r}, must be {wanted!r}")
  return jobset


def parse_jobset(text: str) -> dict[str, Any]:
  """Reads a manifest and checks the fields that the JobSet schema requires.

  Raises:
    RunError: naming the field at fault.
  """
  try:
    jobset: Any = yaml.safe_load(text)
  except yaml.YAMLError as error:
    raise RunError(f"manifest: is not valid YAML ({' '.join(str(error).split())[:200]})") from error
  kind = (jobset.get("apiVersion"), jobset.get("kind")) if isinstance(jobset, dict) else None
  if kind != (API_VERSION, "JobSet"):
    raise RunError(f"manifest: is {kind}, must be ({API_VERSION}, JobSet)")
  for field, found in _required(jobset):
    if not found:
      raise RunError(f"manifest: {field} is missing, a JobSet needs it")
  assert isinstance(jobset, dict)
  return jobset


def pod_of(jobset: dict[str, Any]) -> dict[str, Any]:
  """Returns the specification of the first replicated job's pods."""
  pod: dict[str, Any] = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
  return pod


def _required(jobset: dict[str, Any]) -> Iterator[tuple[str, Any]]:
  """Yields (field, value) of each field that must not be empty. It reads a field only after its parent was checked."""
  yield "metadata.name", (jobset.get("metadata") or {}).get("name")
  jobs = (jobset.get("spec") or {}).get("replicatedJobs") or []
  yield "spec.replicatedJobs", jobs
  for job in jobs:
    yield "replicatedJobs.name", job.get("name")
    spec = (job.get("template") or {}).get("spec") or {}
    yield "replicatedJobs.template.spec.template", spec.get("template")
    pod = spec["template"].get("spec") or {}
    yield "restartPolicy", pod.get("restartPolicy")
    yield "containers", pod.get("containers")
    for container in pod["containers"]:
      yield "containers.name", container.get("name")
      yield "containers.image", container.get("image")


def _comparisons(jobset: dict[str, Any], workload: Workload) -> Iterator[tuple[str, Any, Any]]:
  """Yields (field, value found, value wanted)."""
  placement = workload.placement
  job, pod = jobset["spec"]["replicatedJobs"][0], pod_of(jobset)
  container = pod["containers"][-1]  # xpk puts its sidecar first
  chips = tpu_types()[placement.tpu_type]
  topology = str(pod["nodeSelector"].get(TOPOLOGY, ""))
  env = {item["name"]: item.get("value") for item in container.get("env") or []}
  script = str(container["command"][-1])
  yield "metadata.name", jobset["metadata"]["name"], workload.name
  yield "replicas", job.get("replicas"), placement.num_slices
  yield "maxRestarts", jobset["spec"]["failurePolicy"].get("maxRestarts"), placement.max_restarts
  yield "priorityClassName", pod.get("priorityClassName"), placement.priority
  yield ACCELERATOR, pod["nodeSelector"].get(ACCELERATOR), family_of(placement.tpu_type).accelerator
  yield TOPOLOGY, math.prod(map(int, topology.split("x"))) if topology else None, chips
  yield TPU, job["template"]["spec"]["parallelism"] * container["resources"]["limits"][TPU], chips
  if placement.docker_image:
    yield "image", container["image"], placement.docker_image
  for name, value in placement.env.items():
    yield f"env {name}", env.get(name), kubernetes_literal(value)
  # Our command is the end of its line, because xpk's --enable-debug-logs puts exports before it.
  lines = [line for line in map(str.strip, script.splitlines()) if line.endswith(f"{workload.command}) & PID=$!;")]
  yield "number of lines with our command", len(lines), 1
