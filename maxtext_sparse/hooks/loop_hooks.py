"""Hooks around the train loop on the host: checks at a resume, counts after events, the final eval, the end of a run.

Dense runs notice two things: their last step is evaluated, and one that resumes a sparse run is refused. A config that is
not MaxText's gets MaxText's own behaviour.
"""

from typing import Any

from etils import epath
import jax
from maxtext.common import checkpointing
from maxtext.utils.exceptions import StopTraining

from maxtext_sparse import __version__
from maxtext_sparse.errors import ConfigError, one_line_errors
from maxtext_sparse.hooks import listeners, run_guard, sink_hooks, sparse_run, summary
from maxtext_sparse.hooks.monitor import logger, Monitor
from maxtext_sparse.hooks.plugin import maxtext_version
from maxtext_sparse.hooks.registry import Function
from maxtext_sparse.hooks.settings import is_maxtext_config, settings_of
from maxtext_sparse.hooks.train_state import split_state, step_of, weights_of
from maxtext_sparse.pruning.census import PendingCensus, prunable_weights
from maxtext_sparse.runs.record import Plan, RunRecord
from maxtext_sparse.runs.resume import plan_to_follow, refuse_dense_resume


def guard_resume(setup_train_loop: Function) -> Function:
  """`train_utils.setup_train_loop`: the first moment at which the restored state and its step are known."""

  def setup_sparse_train_loop(config: Any, recorder: Any, devices: Any = None) -> Any:
    settings = settings_of(config)
    if settings is None:
      return setup_train_loop(config, recorder, devices)
    sink_hooks.refuse_missing_wandb(config)
    with run_guard.damage_named(config):
      parts = setup_train_loop(config, recorder, devices)
    state = split_state(parts[-1])  # the tuple ends with the train state in every release
    start_step = int(step_of(state))
    run_record = RunRecord(str(epath.Path(config.checkpoint_dir).parent), is_writer=jax.process_index() == 0)
    run = sparse_run.run_of(config)
    if run is not None:
      _begin(run, config, run_record, start_step, state)
    else:
      if start_step > 0:
        refuse_dense_resume(run_record.read_plan(), settings.keys.gmp_reschedule)
      logger.info("dense, sparsity=0: MaxText trains as it does without the plugin")
    listeners.tell_set_up()
    return parts

  return setup_sparse_train_loop


def observe_steps(maybe_save_checkpoint: Function) -> Function:
  """`checkpointing.maybe_save_checkpoint`: called after every update with the new state, before it is donated again."""

  def observe_and_save(
    checkpoint_manager: Any, state: Any, config: Any, data_iterator: Any, step: int | None = None
  ) -> Any:
    run = sparse_run.run_of(config)
    if run is not None and step is not None:  # the call after the loop saves the last state again and gives no step
      run.monitor.observe(int(step), weights_of(state))
    try:
      saved = maybe_save_checkpoint(checkpoint_manager, state, config, data_iterator, step)
    except StopTraining as error:
      # The machine is taken away, or, before 0.2.5, a save failed. The train loop catches this and ends as if all were
      # well, so the reason is kept for `require_completion`.
      if run is not None:
        run.monitor.stop(" ".join(str(error).split()).rstrip("."))
      raise
    reason = None if step is None or not is_maxtext_config(config) else run_guard.asked_to_stop(int(step))
    if reason is not None:
      if checkpoint_manager is not None:
        maybe_save_checkpoint(checkpoint_manager, state, config, data_iterator, None)
        _wait_for_saves(checkpoint_manager)
      raise StopTraining(reason)
    return saved

  return observe_and_save


def _wait_for_saves(checkpoint_manager: Any) -> None:
  """Waits until the last checkpoint is on disk. 0.2.5 has a function for its two kinds of manager."""
  wait = getattr(checkpointing, "wait_until_finished", None)
  wait(checkpoint_manager) if wait else checkpoint_manager.wait_until_finished()


def evaluate_last_step(training_loop_iteration: Function) -> Function:
  """`train.training_loop_iteration`: makes MaxText evaluate the last step.

  It evaluates the steps eval_start_step + k x eval_interval, and the last step is one of these only by chance.
  """

  def iterate(jax_device_state: Any, python_vars: Any, immutable_data: Any) -> Any:
    if is_maxtext_config(immutable_data.get("config")):
      step = python_vars["step"]
      if step == immutable_data["steps"] - 1 and immutable_data["eval_interval"] > 0:
        immutable_data = immutable_data | {"eval_start_step": step}
    return training_loop_iteration(jax_device_state, python_vars, immutable_data)

  return iterate


def require_completion(train_loop: Function) -> Function:
  """`train.train_loop`: surrounds the run with what `run_guard` offers, and ends it with a summary.

  A sparse run that ends before its last step fails, while MaxText ends with status 0 without data. A finished run that is
  started again has nothing to do, while MaxText fails.
  """

  def train_to_the_end(config: Any, recorder: Any, state: Any = None) -> Any:
    if not is_maxtext_config(config):
      return train_loop(config, recorder, state)
    with run_guard.alone(config), run_guard.explained(config):
      summary.begin()
      try:
        with run_guard.stoppable(config):
          state = train_loop(config, recorder, state)
      except RuntimeError as error:
        if not run_guard.is_finished(error, config):
          raise
        logger.info("run %s: nothing to do, it has finished its %d steps", config.run_name, config.steps)
        return state
      run = sparse_run.run_of(config)
      if run is not None:
        run.monitor.finish()
      logger.info(summary.describe(config, run))
    return state

  return train_to_the_end


def fail_in_one_line(main: Function) -> Function:
  """`train.main`: expected failures end with one line, however the trainer was started."""

  def main_in_one_line(argv: Any) -> None:
    with one_line_errors():
      main(argv)

  return main_in_one_line


def _begin(run: sparse_run.SparseRun, config: Any, run_record: RunRecord, start_step: int, state: Any) -> None:
  """Checks the state that the run starts from against its record, and gives the run its monitor."""
  census = PendingCensus(run.parameters, prunable_weights(weights_of(state), run.parameters)).result()
  asked = Plan(run.schedule, tuple(p.path for p in run.parameters), run.num_prunable, rules=run.plan.describe())
  # A new run under an old name begins a new record.
  recorded = run_record.read_plan() if start_step > 0 else None
  plan = plan_to_follow(asked, recorded, start_step, census.total_nonzero, run.keys.gmp_reschedule)
  if run.keys.pruning_method == "hold" and census.total_nonzero == run.num_prunable:
    raise ConfigError(
      f"pruning_method=hold: no prunable weight is zero at step {start_step}, so there is nothing to hold; go on from a "
      "sparse checkpoint, or set pruning_method=global_gradual and a sparsity"
    )
  tokens = None if config.enable_rampup_batch_size else config.global_batch_size_to_train_on * config.max_target_length
  run.monitor = Monitor(plan, run.parameters, run_record, tokens)
  run.monitor.begin(start_step, census)
  run_record.write_plan(plan)
  run_record.write_config(config.get_keys())
  run_record.write_versions({"maxtext": maxtext_version(), "maxtext_sparse": __version__, "jax": jax.__version__})
  logger.info(
    "sparse pre-training of %d weights from step %d: %s", plan.num_prunable, start_step, run.schedule.describe()
  )
