"""The table lists every attribute that is replaced, with a reason and a proof, and fits the installed MaxText."""

from pathlib import Path

import pytest

from maxtext_sparse import hooks
from maxtext_sparse.hooks.table import PREFLIGHT

pytestmark = pytest.mark.release


@pytest.fixture(scope="module")
def table():
  return (*hooks.fitting_hooks(hooks.maxtext_version()), *PREFLIGHT)


def test_every_hook_fits_the_installed_maxtext(table):
  for hook in table:
    hook.check()


def test_every_hook_says_why_and_names_a_test_that_exists(table):
  for hook in table:
    assert len(hook.reason) > 20
    assert (Path(__file__).parents[2] / hook.proof).is_file(), hook.target


def test_the_set_of_replaced_attributes_is_frozen(table):
  # 0.2.3 has no function for one iteration of its loop.
  own = {"0.2.3": ["maxtext.trainers.pre_train.train:training_loop_iteration"]}.get(hooks.maxtext_version(), [])
  assert sorted([*(hook.target for hook in table), *own]) == [
    "maxtext.common.checkpointing:maybe_save_checkpoint",
    "maxtext.common.metric_logger:MetricLogger.flush_metrics_and_cleanup",
    "maxtext.common.metric_logger:MetricLogger.write_metrics",
    "maxtext.common.metric_logger:MetricLogger.write_metrics_for_gcs",
    "maxtext.common.metric_logger:MetricLogger.write_metrics_locally",
    "maxtext.common.metric_logger:MetricLogger.write_metrics_to_tensorboard",
    "maxtext.common.metric_logger:MetricLogger.write_setup_info_to_tensorboard",
    "maxtext.configs.pyconfig:_handle_config_exception",
    "maxtext.configs.pyconfig:_initialize_pydantic",
    "maxtext.configs.pyconfig:_load_config",
    "maxtext.configs.pyconfig:_prepare_for_pydantic",
    "maxtext.integration.tunix.tunix_adapter:TunixMaxTextAdapter.__call__",
    "maxtext.optimizers.optimizers:get_optimizer",
    "maxtext.trainers.pre_train.train:loss_fn",
    "maxtext.trainers.pre_train.train:main",
    "maxtext.trainers.pre_train.train:train_loop",
    "maxtext.trainers.pre_train.train:train_step",
    "maxtext.trainers.pre_train.train:training_loop_iteration",
    "maxtext.trainers.pre_train.train_compile:jit_and_compile",
    "maxtext.utils.max_logging:log",
    "maxtext.utils.model_creation_utils:setup_configs_and_devices",
    "maxtext.utils.train_utils:setup_train_loop",
  ]


def test_training_leaves_the_preflights_attribute_alone():
  (preflight,) = PREFLIGHT
  try:
    hooks.install()
    assert not preflight.is_installed()
    hooks.install_for_preflight()
    assert preflight.is_installed()
  finally:
    hooks.uninstall()
  assert not preflight.is_installed()
