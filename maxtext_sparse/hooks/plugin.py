"""Installs and removes the plugin: `install()`, `uninstall()`, and `installed()` as a context manager.

Which hooks are installed depends on the MaxText that would be imported:

  a supported release      its own table
  a checkout of its code   the table of the newest release that fits it as a whole
  a newer patch release    the same, but only if the user allows it with MAXTEXT_SPARSE_ALLOW_NEWER=1
  anything else            none; the error says which hook does not fit
"""

from collections.abc import Iterator
import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
from pathlib import Path
import re

from maxtext_sparse.errors import HookError
from maxtext_sparse.hooks import registry
from maxtext_sparse.hooks.registry import Hook

SUPPORTED_VERSIONS = ("0.2.3", "0.2.4", "0.2.5")
# Environment variable that allows a newer patch release if every hook fits it.
OVERRIDE = "MAXTEXT_SPARSE_ALLOW_NEWER"
CHECKOUT = "checkout"


def maxtext_version() -> str:
  """The release of the MaxText that would be imported; `checkout` if that is not an installed distribution.

  Raises:
    HookError: MaxText is not installed.
  """
  spec = importlib.util.find_spec("maxtext")
  if spec is None or not spec.submodule_search_locations:
    raise HookError(
      f"maxtext: not installed here, install it first: uv pip install 'maxtext[tpu]=={SUPPORTED_VERSIONS[-1]}' "
      "--resolution=lowest"
    )
  try:
    distribution = importlib.metadata.distribution("maxtext")
  except importlib.metadata.PackageNotFoundError:
    return CHECKOUT
  installed = Path(str(distribution.locate_file("maxtext")))
  is_elsewhere = installed.is_dir() and installed.resolve() != Path(spec.submodule_search_locations[0]).resolve()
  is_editable = '"editable": true' in (distribution.read_text("direct_url.json") or "")
  return CHECKOUT if is_elsewhere or is_editable else distribution.version


def install() -> None:
  """Hooks MaxText. Does nothing if it is hooked already.

  Raises:
    HookError: MaxText is missing, its version is not supported, or one of its functions is not what we rely on.
  """
  registry.install(fitting_hooks(maxtext_version()))


def install_for_preflight() -> None:
  """As `install`, and hooks MaxText's `train_compile`, so that the preflight sees the programs that it compiles.

  Raises:
    HookError: as `install`.
  """
  hooks = fitting_hooks(maxtext_version())
  from maxtext_sparse.hooks import table

  registry.install((*hooks, *table.PREFLIGHT))


def fitting_hooks(version: str) -> tuple[Hook, ...]:
  """The hooks of a release; for a checkout those of the newest release that fit it all.

  Raises:
    HookError: the release is not supported; says which hook does not fit.
  """
  from maxtext_sparse.hooks import table  # the table's modules import MaxText

  if version in SUPPORTED_VERSIONS:
    return table.hooks_for(version)
  misfits = {release: _misfit(table.hooks_for(release)) for release in reversed(SUPPORTED_VERSIONS)}
  fitting = [release for release, misfit in misfits.items() if misfit is None]
  is_allowed = version == CHECKOUT or (os.environ.get(OVERRIDE) == "1" and _is_newer_patch_release(version))
  if fitting and is_allowed:
    return table.hooks_for(fitting[0])
  raise HookError(f"maxtext=={version}: not supported, {_advice(version, misfits[SUPPORTED_VERSIONS[-1]])}")


def _misfit(hooks: tuple[Hook, ...]) -> str | None:
  """The first hook that does not fit, None if all do."""
  try:
    for hook in hooks:
      hook.check()
  except HookError as error:
    return str(error)
  return None


def _advice(version: str, misfit: str | None) -> str:
  install_one = f"install one of {', '.join(SUPPORTED_VERSIONS)}"
  if misfit:
    return f"{install_one}; {misfit}"
  return f"{install_one}, or set {OVERRIDE}=1: every hook fits" if _is_newer_patch_release(version) else install_one


def _is_newer_patch_release(version: str) -> bool:
  """Same major and minor number as the latest supported release, and a later patch number."""
  latest = _numbers(SUPPORTED_VERSIONS[-1])
  return _numbers(version)[:2] == latest[:2] and _numbers(version) > latest


def _numbers(version: str) -> tuple[int, ...]:
  return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def uninstall() -> None:
  """Restores stock MaxText.

  Raises:
    HookError: someone else wrapped one of our hooks since.
  """
  registry.uninstall()


@contextlib.contextmanager
def installed() -> Iterator[None]:
  """Hooks MaxText within a with block."""
  install()
  try:
    yield
  finally:
    uninstall()
