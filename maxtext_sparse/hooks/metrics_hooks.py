"""Hooks into MaxText's metrics: our scalars in every sink, density on the step line, a complete metrics file."""

import contextvars
import json

import jax

from maxtext_sparse.hooks import sparse_run
from maxtext_sparse.runs.metrics import drop_rows_from

_step_suffix: contextvars.ContextVar[str] = contextvars.ContextVar("maxtext_sparse_step_line", default="")


def add_scalars(write_metrics):
  """`MetricLogger.write_metrics`: the one call that feeds file, TensorBoard, GCS, W&B and the step line."""

  def write_with_scalars(self, metrics, step, metric_type="train"):
    run = sparse_run.run_of(self.config)
    self.metric_type = metric_type
    if run is None or metric_type != "train" or not metrics:
      return write_metrics(self, metrics, step, metric_type)
    scalars = metrics["scalar"]
    scalars.update(run.monitor.metrics(int(step), scalars.get("pruning/threshold")))
    token = _step_suffix.set(f", density: {scalars['pruning/density']:.4f}")
    try:
      return write_metrics(self, metrics, step, metric_type)
    finally:
      _step_suffix.reset(token)

  return write_with_scalars


def extend_step_line(log):
  """`max_logging.log`: MaxText assembles the step line in one piece, so it is extended on its way out."""

  def log_extended(user_str):
    suffix = _step_suffix.get()
    log(user_str + suffix if suffix and str(user_str).startswith("completed step") else user_str)

  return log_extended


def keep_all_rows(write_metrics_locally):
  """`MetricLogger.write_metrics_locally`: stock truncates the file whenever eval runs and repeats rows on resume.

  One row per train step and one per eval, in order; the running averages inside an eval stay out of the file.
  """
  del write_metrics_locally

  def write_row(self, metrics, step):
    # Processes may share a disk; the scalars are the same in all of them.
    if self.metric_type == "running_eval" or jax.process_index() != 0:
      return
    if not getattr(self, "is_metrics_file_open", False):
      # The first row is of the step that this process starts from.
      drop_rows_from(self.config.metrics_file, int(step))
      self.is_metrics_file_open = True
    row = {name: float(value) for name, value in metrics["scalar"].items()}
    row |= {"step": float(step), "run_name": self.config.run_name}
    with open(self.config.metrics_file, "a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")

  return write_row
