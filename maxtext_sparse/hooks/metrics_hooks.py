"""Hooks into MaxText's metrics: our scalars in every sink, the density on the step line, a complete metrics file.

MaxText's logger calls `write_metrics` once for each row, and from there one writer for each sink. The hook on the log
sits below it and needs to know which row is being written, which the hook on `write_metrics` tells it through a context
variable.
"""

import contextvars
from typing import Any

from absl import logging as absl_logging
import jax

from maxtext_sparse.hooks import listeners, sparse_run, summary
from maxtext_sparse.hooks.registry import Function
from maxtext_sparse.hooks.settings import is_maxtext_config
from maxtext_sparse.runs.metrics import drop_rows_from, row_of, text_of

# What the step line of the row that is being written ends with.
_step_suffix = contextvars.ContextVar("maxtext_sparse_step_suffix", default="")


def add_scalars(write_metrics: Function) -> Function:
  """`MetricLogger.write_metrics`: the one call that feeds file, TensorBoard, GCS, W&B and the step line."""

  def write_with_scalars(self: Any, metrics: Any, step: int, metric_type: str = "train") -> Any:
    if not metrics or not is_maxtext_config(self.config):
      return write_metrics(self, metrics, step, metric_type)
    if metric_type == "running_eval":
      # An average inside an eval, at the eval's own step. In a sink it would stand between the steps of the training: W&B
      # would then refuse the train rows before it.
      return self.log_metrics(metrics, step, metric_type)
    suffix = ""
    run = sparse_run.run_of(self.config)
    if run is not None and metric_type == "train":
      scalars = metrics["scalar"]
      run.monitor.settle(int(step), scalars.get("pruning/threshold"))
      scalars.update(run.monitor.scalars(int(step)))
      suffix = f", density: {scalars['pruning/density']:.4f}"
    summary.note(metrics["scalar"])
    listeners.tell(metrics["scalar"], int(step))
    token = _step_suffix.set(suffix)
    try:
      return write_metrics(self, metrics, step, metric_type)
    finally:
      _step_suffix.reset(token)

  return write_with_scalars


def extend_step_line(log: Function) -> Function:
  """`max_logging.log`: MaxText assembles the step line in one piece, so it is extended on its way out."""

  def log_extended(user_str: Any) -> Any:
    suffix = _step_suffix.get()
    return log(user_str + suffix if suffix and str(user_str).startswith("completed step") else user_str)

  # The log names the place in MaxText that logs, not this hook.
  return absl_logging.skip_log_prefix(log_extended)


def keep_all_rows(write_metrics_locally: Function) -> Function:
  """`MetricLogger.write_metrics_locally`: writes one row per train step and one per eval, in order.

  MaxText empties the file at every row of step 0, and a resumed run repeats rows.
  """

  def write_row(self: Any, metrics: Any, step: int) -> Any:
    if not is_maxtext_config(self.config):
      return write_metrics_locally(self, metrics, step)
    # Processes may share a disk, and the scalars are the same in all of them.
    if jax.process_index() != 0:
      return None
    if not getattr(self, "is_metrics_file_open", False):
      # The first row is that of the step that this process starts from.
      drop_rows_from(self.config.metrics_file, int(step))
      self.is_metrics_file_open = True
    try:
      with open(self.config.metrics_file, "a", encoding="utf-8") as file:
        file.write(text_of([row_of(metrics["scalar"], step, self.config.run_name)]))
    except OSError as error:
      error.filename = self.config.metrics_file  # a failed write, unlike a failed open, does not name its file
      raise
    return None

  return write_row
