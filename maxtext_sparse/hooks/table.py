"""Every MaxText attribute that the package replaces. To see what it does to MaxText, read this file.

`COMMON` and the tuple of the installed release in `releases.RELEASES` are what training installs. `PREFLIGHT` is
installed besides them for `maxtext-sparse preflight` only. Nothing else of MaxText is replaced, with one exception that
lasts for a call: in 0.2.3 the hook on `_initialize_pydantic` swaps `types.MaxTextConfig` while the original runs.
"""

from maxtext_sparse.hooks import compile_hooks, config_hooks, loop_hooks, metrics_hooks, sink_hooks, train_hooks
from maxtext_sparse.hooks.registry import Hook
from maxtext_sparse.hooks.releases import RELEASES

COMMON = (
  Hook(
    target="maxtext.configs.pyconfig:_load_config",
    parameters=("config_name",),
    wrap=config_hooks.add_defaults,
    reason="M_* environment variables only reach keys that are in the YAML chain",
    proof="tests/hooks/test_config_keys.py",
  ),
  Hook(
    target="maxtext.configs.pyconfig:_handle_config_exception",
    parameters=("e",),
    wrap=config_hooks.keep_one_line,
    reason="a user's mistake is one line, not a banner or a traceback",
    proof="tests/hooks/test_config_keys.py",
  ),
  Hook(
    target="maxtext.trainers.pre_train.train:train_step",
    parameters=("model", "config", "state_mesh_shardings", "params_shardings", "state", "data", "dropout_rng"),
    wrap=train_hooks.publish_step,
    reason="the schedule follows the train state's step; optimizer counts stop on skipped steps",
    proof="tests/hooks/test_train.py",
  ),
  Hook(
    target="maxtext.trainers.pre_train.train:loss_fn",
    parameters=("model", "config", "data", "dropout_rng", "params", "sparsity_state", "is_train"),
    wrap=train_hooks.mask_loss_gradients,
    reason="gradients must be masked before accumulation, clipping and norms, all of which follow the loss",
    proof="tests/hooks/test_train.py",
  ),
  Hook(
    target="maxtext.utils.train_utils:setup_train_loop",
    parameters=("config", "recorder", "devices"),
    wrap=loop_hooks.guard_resume,
    reason="first moment at which the restored state is known, before any step",
    proof="tests/hooks/test_resume.py",
  ),
  Hook(
    target="maxtext.trainers.pre_train.train:train_loop",
    parameters=("config", "recorder", "state"),
    wrap=loop_hooks.require_completion,
    reason="MaxText ends with status 0 when its data runs out",
    proof="tests/hooks/test_resume.py",
  ),
  Hook(
    target="maxtext.trainers.pre_train.train:main",
    parameters=("argv",),
    wrap=loop_hooks.fail_in_one_line,
    reason="patched trees start MaxText's own main; a user's mistake is one line there too",
    proof="tests/releases/test_patched_training.py",
  ),
  Hook(
    target="maxtext.common.metric_logger:MetricLogger.write_metrics",
    parameters=("self", "metrics", "step", "metric_type"),
    wrap=metrics_hooks.add_scalars,
    reason="feeds every sink at once: file, TensorBoard, GCS, W&B, step line",
    proof="tests/hooks/test_metrics.py",
  ),
  Hook(
    target="maxtext.common.metric_logger:MetricLogger.write_metrics_locally",
    parameters=("self", "metrics", "step"),
    wrap=metrics_hooks.keep_all_rows,
    reason="stock truncates the metrics file at every eval and repeats rows after a resume",
    proof="tests/hooks/test_metrics.py",
  ),
  Hook(
    target="maxtext.common.metric_logger:MetricLogger.write_metrics_for_gcs",
    parameters=("self", "metrics", "step", "metric_type"),
    wrap=sink_hooks.upload_every_row,
    reason="stock replaces uploaded rows after an eval of the last step and after a resume",
    proof="tests/hooks/test_sinks.py",
  ),
  Hook(
    target="maxtext.common.metric_logger:MetricLogger.flush_metrics_and_cleanup",
    parameters=("self",),
    wrap=sink_hooks.upload_last_rows,
    reason="stock drops the rows since the last upload when a run is stopped",
    proof="tests/hooks/test_sinks.py",
  ),
  Hook(
    target="maxtext.common.metric_logger:MetricLogger.write_metrics_to_tensorboard",
    parameters=("self", "metrics", "step", "metric_type"),
    wrap=sink_hooks.promise_no_events,
    reason="stock tells where the events are where it writes none",
    proof="tests/hooks/test_sinks.py",
  ),
  Hook(
    target="maxtext.common.metric_logger:MetricLogger.write_setup_info_to_tensorboard",
    parameters=("self", "params"),
    wrap=sink_hooks.describe_run,
    reason="called once with the config; stock sends W&B no config",
    proof="tests/faults/test_sinks.py",
  ),
  Hook(
    target="maxtext.utils.max_logging:log",
    parameters=("user_str",),
    wrap=metrics_hooks.extend_step_line,
    reason="the step line is assembled and logged in one call",
    proof="tests/hooks/test_metrics.py",
  ),
)


PREFLIGHT = (
  Hook(
    target="maxtext.trainers.pre_train.train_compile:jit_and_compile",
    parameters=(
      "func",
      "func_input_args",
      "func_input_kwargs",
      "mesh",
      "in_shardings",
      "out_shardings",
      "static_argnums",
      "donate_argnums",
      "config",
      "logical_axis_rules",
    ),
    wrap=compile_hooks.show_programs,
    reason="its return value is the compiled train step, which train_compile only prints figures of",
    proof="tests/preflight/test_preflight.py",
  ),
)


def hooks_for(version: str) -> tuple[Hook, ...]:
  """The hooks that training with one release installs.

  Raises:
    KeyError: the release is not supported.
  """
  return (*COMMON, *RELEASES[version])
