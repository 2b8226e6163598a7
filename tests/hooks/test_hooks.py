"""The hook table: it fits the installed MaxText, installs once, comes off cleanly, and refuses what it does not know."""

import dataclasses
import subprocess
import sys

import pytest

from maxtext_sparse import hooks
from maxtext_sparse.errors import HookError
from maxtext_sparse.hooks import registry
from maxtext_sparse.hooks.registry import Hook
from tests.hooks.harness import environment

pytestmark = pytest.mark.release


@pytest.fixture(scope="module")
def table():
  return hooks.fitting_hooks(hooks.maxtext_version())


@pytest.fixture(autouse=True)
def stock_again():
  yield
  hooks.uninstall()


def test_every_hook_fits_the_installed_maxtext(table):
  for hook in table:
    hook.check()


def test_every_hook_says_why_and_names_a_test_that_exists(table):
  from pathlib import Path

  for hook in table:
    assert len(hook.reason) > 20
    assert (Path(__file__).parents[2] / hook.proof).is_file(), hook.target


def test_the_set_of_replaced_attributes_is_frozen(table):
  # 0.2.3 has no function for one iteration of its loop.
  own = {"0.2.3": ["maxtext.trainers.pre_train.train:training_loop_iteration"]}.get(hooks.maxtext_version(), [])
  assert sorted([*(hook.target for hook in table), *own]) == [
    "maxtext.common.checkpointing:maybe_save_checkpoint",
    "maxtext.common.metric_logger:MetricLogger.write_metrics",
    "maxtext.common.metric_logger:MetricLogger.write_metrics_locally",
    "maxtext.configs.pyconfig:_handle_config_exception",
    "maxtext.configs.pyconfig:_initialize_pydantic",
    "maxtext.configs.pyconfig:_load_config",
    "maxtext.configs.pyconfig:_prepare_for_pydantic",
    "maxtext.optimizers.optimizers:get_optimizer",
    "maxtext.trainers.pre_train.train:loss_fn",
    "maxtext.trainers.pre_train.train:main",
    "maxtext.trainers.pre_train.train:train_loop",
    "maxtext.trainers.pre_train.train:train_step",
    "maxtext.trainers.pre_train.train:training_loop_iteration",
    "maxtext.utils.max_logging:log",
    "maxtext.utils.train_utils:setup_train_loop",
  ]


def test_install_is_idempotent_and_uninstall_restores_every_original(table):
  originals = [hook.resolve()[2] for hook in table]
  hooks.install()
  replaced = [hook.resolve()[2] for hook in table]
  hooks.install()
  assert [hook.resolve()[2] for hook in table] == replaced
  assert all(a is not b for a, b in zip(originals, replaced))
  assert [new.__wrapped__ for new in replaced] == originals
  hooks.uninstall()
  assert [hook.resolve()[2] for hook in table] == originals


def test_the_context_manager_restores_after_an_exception(table):
  originals = [hook.resolve()[2] for hook in table]
  with pytest.raises(KeyError), hooks.installed():
    raise KeyError
  assert [hook.resolve()[2] for hook in table] == originals


def test_importing_the_package_hooks_nothing():
  code = (
    "import maxtext_sparse, maxtext_sparse.hooks.table as t\n"
    "assert not any(hasattr(h.resolve()[2], '_maxtext_sparse_hook') for h in t.COMMON)"
  )
  subprocess.run([sys.executable, "-c", code], env=environment(), check=True, capture_output=True)


def test_uninstall_refuses_when_someone_else_wrapped_us_since(table):
  from maxtext.optimizers import optimizers

  hooks.install()
  ours = optimizers.get_optimizer
  optimizers.get_optimizer = lambda *args, **kwargs: ours(*args, **kwargs)
  try:
    with pytest.raises(HookError, match="get_optimizer: wrapped by someone else since"):
      hooks.uninstall()
  finally:
    optimizers.get_optimizer = ours


def test_a_changed_signature_installs_nothing_at_all(table):
  log = next(hook for hook in table if hook.target.endswith("max_logging:log"))
  moved = dataclasses.replace(log, parameters=("message",))
  with pytest.raises(HookError, match=r"max_logging:log: takes \(user_str\), expected \(message\)"):
    registry.install((*(hook for hook in table if hook is not log), moved))
  assert not any(hook.is_installed() for hook in table)


def test_a_missing_target_is_named():
  gone = Hook("maxtext.utils.max_logging:gone", (), lambda original: original, "", "")
  with pytest.raises(HookError, match=r"max_logging:gone: not found in the installed MaxText"):
    registry.install((gone,))


def test_an_unsupported_maxtext_is_refused_with_its_version_and_what_to_do(tmp_path):
  # A real distribution record that comes first on the path.
  record = tmp_path / "maxtext-9.9.9.dist-info"
  record.mkdir()
  (record / "METADATA").write_text("Metadata-Version: 2.1\nName: maxtext\nVersion: 9.9.9\n")
  variables = environment()
  variables["PYTHONPATH"] = f"{tmp_path}:{variables['PYTHONPATH']}"
  command = [sys.executable, "-m", "maxtext_sparse", "train", "sparsity=0.5"]
  done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  line = done.stderr.splitlines()[-1]
  assert line.startswith("maxtext-sparse: error: maxtext==9.9.9: not supported, install one of 0.2.3, 0.2.4, 0.2.5")


def test_core_and_launcher_import_nothing_heavy():
  code = (
    "import sys, maxtext_sparse.pruning.transform, maxtext_sparse.hooks.monitor, maxtext_sparse.cli\n"
    "heavy = {'pandas', 'matplotlib', 'scipy', 'maxtext', 'tensorflow', 'transformers'} & set(sys.modules)\n"
    "assert not heavy, heavy"
  )
  done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
