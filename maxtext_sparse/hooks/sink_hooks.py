"""Hooks into the sinks of MaxText's metrics besides the local file: uploads, TensorBoard, and Weights & Biases.

A sink gets every row once, and the log promises nothing that is not written.
"""

from collections.abc import Sequence
import importlib.util
import logging
from typing import Any

import jax
from maxtext.common.gcloud_stub import is_decoupled, StubSummaryWriter

from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.hooks.registry import Function
from maxtext_sparse.hooks.settings import is_maxtext_config, values_of
from maxtext_sparse.runs.metrics import Row, row_of, upload_rows
from maxtext_sparse.runs.record import public_keys

logger = logging.getLogger("maxtext_sparse")


def refuse_missing_wandb(config: Any) -> None:
  """Raises ConfigError if W&B is wanted and its package is missing, which MaxText notices after it has compiled."""
  if _sends_to_wandb(config) and importlib.util.find_spec("wandb") is None:
    raise ConfigError("enable_wandb=true: the package wandb is not installed, install it (pip install wandb)")


def upload_every_row(write_metrics_for_gcs: Function) -> Function:
  """`MetricLogger.write_metrics_for_gcs`: writes the rows to `metrics_dir`, in files of at most `log_period` steps.

  MaxText names a file by the period. So an eval of the last step, or a run that resumes within a period, replaces rows
  that are uploaded already. It also writes every file into the working directory first, which runs may share, and says
  that the file was moved where DECOUPLE_GCLOUD=TRUE stops the upload.
  """

  def keep_and_upload(self: Any, metrics: Any, step: int, metric_type: str) -> Any:
    config = self.config
    if not is_maxtext_config(config):
      return write_metrics_for_gcs(self, metrics, step, metric_type)
    rows = self.running_gcs_metrics
    if rows and rows[-1]["step"] != step and _is_due(config, int(rows[-1]["step"])):
      rows.clear()  # they are uploaded, and no eval of their last step comes any more
    rows.append(row_of(metrics["scalar"], step, config.run_name))
    if _is_due(config, int(step)):
      _upload(config, rows, int(step))
    return None

  return keep_and_upload


def upload_last_rows(flush_metrics_and_cleanup: Function) -> Function:
  """`MetricLogger.flush_metrics_and_cleanup`: writes the rows of a period that a stop cuts short, which MaxText drops."""

  def flush(self: Any) -> Any:
    result = flush_metrics_and_cleanup(self)
    # Without gcs_metrics, and outside process 0, there are none.
    rows = is_maxtext_config(self.config) and self.running_gcs_metrics
    if rows and not _is_due(self.config, int(rows[-1]["step"])):
      try:
        _upload(self.config, rows, int(rows[-1]["step"]))
      except RunError as error:  # the run may be ending with an error of its own, which matters more
        logger.warning("%s", error)
    return result

  return flush


def promise_no_events(write_metrics_to_tensorboard: Function) -> Function:
  """`MetricLogger.write_metrics_to_tensorboard`: silent where MaxText has no real writer.

  So it is under DECOUPLE_GCLOUD=TRUE. MaxText would tell where to look for the events.
  """

  def write_events(self: Any, metrics: Any, step: int, metric_type: str) -> Any:
    if is_maxtext_config(self.config) and isinstance(self.writer, StubSummaryWriter):
      return None
    return write_metrics_to_tensorboard(self, metrics, step, metric_type)

  return write_events


def describe_run(write_setup_info_to_tensorboard: Function) -> Function:
  """`MetricLogger.write_setup_info_to_tensorboard`: the config goes to W&B too, to which MaxText sends metrics only."""

  def write_setup_info(self: Any, params: Any) -> Any:
    result = write_setup_info_to_tensorboard(self, params)
    if is_maxtext_config(self.config) and _sends_to_wandb(self.config):
      import wandb

      # A run that goes on may have changed keys.
      wandb.config.update(public_keys(values_of(self.config) or {}), allow_val_change=True)
    return result

  return write_setup_info


def _is_due(config: Any, step: int) -> bool:
  """Whether the rows up to a step are uploaded with each of its rows: at the end of a period or run, and at a checkpoint.

  A run that is killed goes on behind its last checkpoint and never writes the rows before that again. The row of step
  N - 2 is the last one that MaxText writes before it saves step N; those of N - 1 and N follow right after.
  """
  period = config.checkpoint_period
  is_at_checkpoint = config.enable_checkpointing and period > 0 and step % period in (0, period - 2)
  return is_at_checkpoint or (step + 1) % config.log_period == 0 or step == config.steps - 1


def _sends_to_wandb(config: Any) -> bool:
  """Whether this process does. MaxText 0.2.3 cannot."""
  return bool((values_of(config) or {}).get("enable_wandb")) and jax.process_index() == 0


def _upload(config: Any, rows: Sequence[Row], step: int) -> None:
  """Writes the rows of the period that a step belongs to, unless the user wants nothing of Google's."""
  if is_decoupled():
    logger.info("gcs_metrics: nothing is uploaded, because DECOUPLE_GCLOUD=TRUE")
    return
  # With log_period=100, a run that resumes at step 91 writes a file 91 to 99 beside the one with 0 to 99.
  first = max(step - step % config.log_period, int(rows[0]["step"]))
  logger.info("metrics of steps %d to %d are in %s", first, step, upload_rows(config.metrics_dir, first, step, rows))
