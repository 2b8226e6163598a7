"""What a run's folder tells about the model in one of its checkpoints, for the certificate."""

from collections.abc import Callable, Mapping
import hashlib
import json
import os
from typing import Any

from maxtext_sparse.config import DEFAULTS, KEYS
from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.export.run_config import RunConfig
from maxtext_sparse.pruning.prunable import is_linear_kernel
from maxtext_sparse.runs.active import active_sum
from maxtext_sparse.runs.metrics import (
  eval_rows,
  last_of,
  once_per_step,
  read_rows,
  read_uploaded_rows,
  Row,
  train_rows,
)
from maxtext_sparse.runs.record import RunRecord

# Figures of the last train row at or before the checkpoint: metric -> name in the certificate.
_FIGURES = {"pruning/average_params": "average_params", "pruning/effective_flops": "effective_flops"}


def training_facts(checkpoint: Checkpoint, config: RunConfig) -> dict[str, Any]:
  """Schedule, events, average parameters, FLOPs, tokens, versions and final eval loss, as far as the run left them.

  Args:
    checkpoint: the model.
    config: of the run; its `metrics_file` is read if it is there, else the metrics in the run's folder.
  """
  flat = config.flat
  facts: dict[str, Any] = {
    "step": checkpoint.step,
    "sparsity_keys": {key: flat[key] for key in KEYS if flat.get(key, DEFAULTS[key]) != DEFAULTS[key]},
  }
  if config.is_recorded:
    facts["config_sha256"] = config_digest(flat)
  facts |= _record_facts(checkpoint) | _metric_facts(checkpoint, flat)
  is_known = config.is_recorded and checkpoint.step is not None and not flat.get("enable_rampup_batch_size", True)
  return facts | (_planned_cost(facts, flat) if is_known and "tokens" not in facts else {})


def prunable_paths(checkpoint: Checkpoint) -> Callable[[str], bool]:
  """Whether the run prunes a MaxText parameter: as it recorded, or every linear layer's weight if it recorded nothing."""
  record = RunRecord(str(checkpoint.run_folder), is_writer=False) if checkpoint.run_folder else None
  plan = record.read_plan() if record else None
  linear = frozenset(parameter.path for parameter in checkpoint.parameters() if is_linear_kernel(parameter))
  pruned = frozenset(plan.prunable) if plan else linear
  return lambda path: path in pruned


def config_digest(flat: Mapping[str, Any]) -> str:
  """SHA-256 of a config's keys and values as JSON with sorted keys; what is no JSON value as its text."""
  return hashlib.sha256(json.dumps(flat, sort_keys=True, default=str).encode()).hexdigest()


def _record_facts(checkpoint: Checkpoint) -> dict[str, Any]:
  record = RunRecord(str(checkpoint.run_folder), is_writer=False) if checkpoint.run_folder else None
  plan = record.read_plan() if record else None
  if record is None or plan is None:
    return {}
  done = [step for step in plan.schedule.event_steps if checkpoint.step is None or step <= checkpoint.step]
  events = [event for event in map(record.read_event, done) if event]
  facts: dict[str, Any] = {
    "schedule": plan.schedule.describe(),
    "events": [{"step": event["step"], "density": event["density"]} for event in events],
    "versions": record.read_versions(),
  }
  if checkpoint.step is None:
    return facts
  # The checkpoint is the state after the update of its step, so step + 1 forward passes came before it.
  num_steps = checkpoint.step + 1
  return facts | {"average_params": active_sum(plan, record, before=num_steps).over(num_steps) / num_steps}


def _metric_facts(checkpoint: Checkpoint, flat: Mapping[str, Any]) -> dict[str, Any]:
  """Facts from the metrics rows up to the checkpoint's step."""
  step = checkpoint.step
  rows = [row for row in once_per_step(_rows(checkpoint, flat)) if step is None or row["step"] <= step]
  last, evaluated = last_of(train_rows(rows)), last_of(eval_rows(rows))
  facts = {name: last[metric] for metric, name in _FIGURES.items() if metric in last}
  if {"average_params", "effective_flops"} <= facts.keys():
    # effective_flops = 6 x average_params x tokens
    facts["tokens"] = round(facts["effective_flops"] / (6 * facts["average_params"]))
  return facts | ({"eval_loss": evaluated["eval/avg_loss"], "eval_step": evaluated["step"]} if evaluated else {})


def _planned_cost(facts: Mapping[str, Any], flat: Mapping[str, Any]) -> dict[str, Any]:
  """Tokens and effective FLOPs as the run counts them itself, where its metrics are not to be had."""
  tokens = (facts["step"] + 1) * flat["global_batch_size_to_train_on"] * flat["max_target_length"]
  average = facts.get("average_params")
  return {"tokens": tokens} | ({"effective_flops": 6.0 * average * tokens} if average is not None else {})


def _rows(checkpoint: Checkpoint, flat: Mapping[str, Any]) -> list[Row]:
  """The run's metrics: of the config's file, of one in the run's folder, or what MaxText uploaded there."""
  run_folder = str(checkpoint.run_folder or "")
  for path in (str(flat.get("metrics_file") or ""), os.path.join(run_folder, "metrics.jsonl")):
    if os.path.isfile(path):
      return read_rows(path)
  return read_uploaded_rows(run_folder) if run_folder else []
