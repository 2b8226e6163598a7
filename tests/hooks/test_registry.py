"""The registry: all hooks or none, one for each attribute, and every original back. With the real table and MaxText."""

import dataclasses

import pytest

from maxtext_sparse import hooks
from maxtext_sparse.errors import HookError
from maxtext_sparse.hooks import registry
from maxtext_sparse.hooks.registry import Hook

pytestmark = pytest.mark.release


@pytest.fixture(scope="module")
def table():
  return hooks.fitting_hooks(hooks.maxtext_version())


@pytest.fixture(autouse=True)
def stock_again():
  yield
  hooks.uninstall()


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


def broken_hook(target: str, parameters: tuple[str, ...] = ("user_str",)) -> Hook:
  def wrap(original):
    raise RuntimeError("cannot be built")

  return Hook(target, parameters, wrap, "", "")


def test_a_wrapper_that_cannot_be_built_undoes_the_hooks_before_it(table):
  originals = [hook.resolve()[2] for hook in table]
  # A function that the table leaves alone.
  with pytest.raises(RuntimeError, match="cannot be built"):
    registry.install((*table, broken_hook("maxtext.utils.max_logging:warning")))
  assert [hook.resolve()[2] for hook in table] == originals
  hooks.install()
  assert all(hook.is_installed() for hook in table), "a failure leaves nothing behind"


def test_a_failure_leaves_hooks_of_an_earlier_install_in_place(table):
  log = next(hook for hook in table if hook.target.endswith("max_logging:log"))
  registry.install((log,))
  with pytest.raises(RuntimeError, match="cannot be built"):
    registry.install((*table, broken_hook("maxtext.utils.max_logging:warning")))
  assert [hook for hook in table if hook.is_installed()] == [log]


@pytest.mark.parametrize("alias", ["maxtext.utils.max_logging:log", "maxtext.common.metric_logger:max_logging.log"])
@pytest.mark.parametrize("is_installed_before", [False, True])
def test_a_second_hook_for_one_attribute_is_refused_under_any_name(table, alias, is_installed_before):
  log = next(hook for hook in table if hook.target.endswith("max_logging:log"))
  original = log.resolve()[2]
  second = dataclasses.replace(log, target=alias, reason="another")
  if is_installed_before:
    registry.install((log,))
  current = log.resolve()[2]
  with pytest.raises(HookError, match=f"^{alias}: maxtext.utils.max_logging:log replaces this attribute already, keep"):
    registry.install((log, second))
  assert log.resolve()[2] is current
  hooks.uninstall()
  assert log.resolve()[2] is original
