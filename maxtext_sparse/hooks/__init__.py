"""The plugin's grip on MaxText: `install()`, `uninstall()`, and `installed()` as a context manager."""

from collections.abc import Iterator
import contextlib
import importlib.metadata

from maxtext_sparse.hooks import registry
from maxtext_sparse.hooks.registry import HookError

SUPPORTED_VERSIONS = ("0.2.3", "0.2.4", "0.2.5")


def maxtext_version() -> str:
  """Version of the installed MaxText.

  Raises:
    HookError: there is none.
  """
  try:
    return importlib.metadata.version("maxtext")
  except importlib.metadata.PackageNotFoundError:
    raise HookError(
      f"maxtext: not installed here, install it first: uv pip install 'maxtext[tpu]=={SUPPORTED_VERSIONS[-1]}' "
      "--resolution=lowest"
    ) from None


def install() -> None:
  """Hooks the installed MaxText; idempotent.

  Raises:
    HookError: MaxText is missing, of an unsupported version, or one of its functions is not what we rely on.
  """
  version = maxtext_version()
  if version not in SUPPORTED_VERSIONS:
    raise HookError(f"maxtext=={version}: not supported, install one of {', '.join(SUPPORTED_VERSIONS)}")
  from maxtext_sparse.hooks import table  # the table's modules import MaxText

  registry.install(table.hooks_for(version))


def uninstall() -> None:
  """Restores stock MaxText.

  Raises:
    HookError: someone else wrapped one of our hooks since.
  """
  registry.uninstall()


@contextlib.contextmanager
def installed() -> Iterator[None]:
  """Hooks MaxText for the duration of a with block."""
  install()
  try:
    yield
  finally:
    uninstall()
