"""Hooks around the train loop on the host: resume guards, event counts, the final eval, the end of a run."""

from etils import epath
import jax
from maxtext.utils.exceptions import StopTraining

from maxtext_sparse.config import keys_of
from maxtext_sparse.errors import one_line_errors
from maxtext_sparse.hooks import sparse_run
from maxtext_sparse.hooks.monitor import logger, Monitor
from maxtext_sparse.hooks.train_state import split_state, step_of, weights_of
from maxtext_sparse.pruning.census import PendingCensus, prunable_weights
from maxtext_sparse.runs import record as records
from maxtext_sparse.runs.record import Plan, RunRecord


def guard_resume(setup_train_loop):
  """`train_utils.setup_train_loop`: the first moment at which the restored state and its step are known."""

  def setup_sparse_train_loop(config, recorder, devices=None):
    parts = setup_train_loop(config, recorder, devices)
    state = split_state(parts[-1])
    start_step = int(step_of(state))
    run_record = RunRecord(str(epath.Path(config.checkpoint_dir).parent), is_writer=jax.process_index() == 0)
    run = sparse_run.run_of(config)
    if run is not None:
      _begin(run, config, run_record, start_step, state)
    elif start_step > 0:
      records.refuse_dense_resume(run_record.read_plan(), keys_of(config).gmp_reschedule)
    return parts

  return setup_sparse_train_loop


def observe_steps(maybe_save_checkpoint):
  """`checkpointing.maybe_save_checkpoint`: called after every update with the new state, before it is donated again."""

  def observe_and_save(checkpoint_manager, state, config, data_iterator, step=None):
    run = sparse_run.run_of(config)
    if run is not None and step is not None:
      run.monitor.observe(int(step), weights_of(state))
    try:
      return maybe_save_checkpoint(checkpoint_manager, state, config, data_iterator, step)
    except StopTraining as error:
      # Preempted, or before 0.2.5 the checkpoint failed; the train loop catches this and ends as if all were well.
      if run is not None:
        run.monitor.stop(" ".join(str(error).split()).rstrip("."))
      raise

  return observe_and_save


def evaluate_last_step(training_loop_iteration):
  """`train.training_loop_iteration`: stock MaxText evaluates the last step only if eval_interval happens to divide it."""

  def iterate(jax_device_state, python_vars, immutable_data):
    step = python_vars["step"]
    if step == immutable_data["steps"] - 1 and immutable_data["eval_interval"] > 0:
      immutable_data = immutable_data | {"eval_start_step": step}
    return training_loop_iteration(jax_device_state, python_vars, immutable_data)

  return iterate


def require_completion(train_loop):
  """`train.train_loop`: MaxText ends with status 0 when data runs out; a sparse run that did is not a success."""

  def train_to_the_end(config, recorder, state=None):
    state = train_loop(config, recorder, state)
    run = sparse_run.run_of(config)
    if run is not None:
      run.monitor.finish()
    return state

  return train_to_the_end


def fail_in_one_line(main):
  """`train.main`: expected failures end with one line however the trainer was started."""

  def main_in_one_line(argv):
    with one_line_errors():
      main(argv)

  return main_in_one_line


def _begin(run: sparse_run.SparseRun, config, run_record: RunRecord, start_step: int, state) -> None:
  census = PendingCensus(run.parameters, prunable_weights(weights_of(state), run.parameters)).result()
  plan = Plan(run.schedule, tuple(p.path for p in run.parameters), run.num_prunable)
  if start_step > 0:
    recorded = run_record.read_plan()
    plan = records.reconcile(recorded, plan, run.keys.gmp_reschedule)
    if recorded is None or run.keys.gmp_reschedule:
      plan = records.begin_late(plan, start_step, census.total_nonzero)
  tokens = None if config.enable_rampup_batch_size else config.global_batch_size_to_train_on * config.max_target_length
  run.monitor = Monitor(plan, run.parameters, run_record, tokens)
  run.monitor.begin(start_step, census)
  run_record.write_plan(plan)
  logger.info(
    "sparse pre-training of %d weights from step %d: %s", plan.num_prunable, start_step, run.schedule.describe()
  )
