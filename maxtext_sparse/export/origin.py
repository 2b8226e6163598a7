"""What a run's folder tells about the model in one of its checkpoints, for the certificate."""

from collections.abc import Callable, Mapping
import hashlib
import json
import os
from typing import Any

from maxtext_sparse.config import DEFAULTS, KEYS
from maxtext_sparse.export.checkpoint import Checkpoint
from maxtext_sparse.export.run_config import RunConfig
from maxtext_sparse.hooks import maxtext_version
from maxtext_sparse.pruning.prunable import is_linear_kernel
from maxtext_sparse.runs.active import active_sum
from maxtext_sparse.runs.metrics import eval_rows, last_of, once_per_step, read_rows, train_rows
from maxtext_sparse.runs.record import RunRecord

# Figures of the last train row at or before the checkpoint: metric -> name in the certificate.
_FIGURES = {"pruning/average_params": "average_params", "pruning/effective_flops": "effective_flops"}


def training_facts(checkpoint: Checkpoint, config: RunConfig) -> dict[str, Any]:
  """Schedule, events, average parameters, effective FLOPs, tokens and final eval loss, as far as the run left them.

  Args:
    checkpoint: the model.
    config: of the run; its `metrics_file` is read if it is there.
  """
  flat = config.flat
  facts: dict[str, Any] = {
    "maxtext_version": maxtext_version(),
    "step": checkpoint.step,
    "sparsity_keys": {key: flat[key] for key in KEYS if flat.get(key, DEFAULTS[key]) != DEFAULTS[key]},
  }
  if config.is_recorded:
    facts["config_sha256"] = config_digest(flat)
  return facts | _record_facts(checkpoint) | _metric_facts(checkpoint, str(flat.get("metrics_file") or ""))


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
  }
  if checkpoint.step is None:
    return facts
  # The checkpoint is the state after the update of its step, so step + 1 forward passes came before it.
  num_steps = checkpoint.step + 1
  return facts | {"average_params": active_sum(plan, record, before=num_steps).over(num_steps) / num_steps}


def _metric_facts(checkpoint: Checkpoint, metrics_file: str) -> dict[str, Any]:
  """Facts from the metrics rows up to the checkpoint's step; the config's file, or one in the run's folder."""
  if not metrics_file or not os.path.isfile(metrics_file):
    metrics_file = os.path.join(str(checkpoint.run_folder or ""), "metrics.jsonl")
  if not os.path.isfile(metrics_file):
    return {}
  step = checkpoint.step
  rows = [row for row in once_per_step(read_rows(metrics_file)) if step is None or row["step"] <= step]
  last, evaluated = last_of(train_rows(rows)), last_of(eval_rows(rows))
  facts = {name: last[metric] for metric, name in _FIGURES.items() if metric in last}
  if {"average_params", "effective_flops"} <= facts.keys():
    # effective_flops = 6 x average_params x tokens
    facts["tokens"] = round(facts["effective_flops"] / (6 * facts["average_params"]))
  return facts | ({"eval_loss": evaluated["eval/avg_loss"], "eval_step": evaluated["step"]} if evaluated else {})
