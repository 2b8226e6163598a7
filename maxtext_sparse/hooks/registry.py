"""Installs and removes hooks: named attributes of MaxText, each replaced by a wrapper around the original.

A hook says which attribute, what the wrapper relies on, and why. Installation resolves and checks every target before
it changes any; removal puts the originals back in reverse order and refuses where someone else wrapped us since.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import importlib
import inspect
from typing import Any

from maxtext_sparse.errors import HookError

_MARK = "_maxtext_sparse_hook"


@dataclasses.dataclass(frozen=True)
class Hook:
  """One replaced attribute.

  Attributes:
    target: `package.module:attribute` or `package.module:Class.attribute`.
    parameters: the target's parameter names, in order; installation fails if they differ.
    wrap: takes the original function, returns the replacement.
    reason: why this target and no other.
    proof: the test that fails when the hook no longer does what it is for.
  """

  target: str
  parameters: tuple[str, ...]
  wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
  reason: str
  proof: str

  def resolve(self) -> tuple[Any, str, Callable[..., Any]]:
    """(parent object, attribute name, current value).

    Raises:
      HookError: the target does not exist.
    """
    module_name, _, path = self.target.partition(":")
    *parents, name = path.split(".")
    try:
      parent = functools.reduce(getattr, parents, importlib.import_module(module_name))
      return parent, name, getattr(parent, name)
    except (ImportError, AttributeError) as error:
      raise HookError(f"{self.target}: not found in the installed MaxText ({error})") from error

  def check(self) -> None:
    """Raises HookError if the target is missing or takes other parameters than the wrapper relies on."""
    _, _, current = self.resolve()
    found = tuple(inspect.signature(inspect.unwrap(current)).parameters)
    if found != self.parameters:
      raise HookError(f"{self.target}: takes ({', '.join(found)}), expected ({', '.join(self.parameters)})")

  def is_installed(self) -> bool:
    return getattr(self.resolve()[2], _MARK, None) is self


@dataclasses.dataclass(frozen=True)
class _Installed:
  hook: Hook
  parent: Any
  name: str
  original: Callable[..., Any]
  replacement: Callable[..., Any]


_installed: list[_Installed] = []


def install(hooks: Sequence[Hook]) -> None:
  """Installs all hooks or none; does nothing for those installed already."""
  missing = [hook for hook in hooks if not hook.is_installed()]
  for hook in missing:
    hook.check()
  for hook in missing:
    parent, name, original = hook.resolve()
    replacement = functools.wraps(original)(hook.wrap(original))
    setattr(replacement, _MARK, hook)
    setattr(parent, name, replacement)
    _installed.append(_Installed(hook, parent, name, original, replacement))


def uninstall() -> None:
  """Puts every original back.

  Raises:
    HookError: someone else replaced a hooked attribute since; nothing is changed then.
  """
  for entry in _installed:
    if getattr(entry.parent, entry.name) is not entry.replacement:
      raise HookError(f"{entry.hook.target}: wrapped by someone else since, remove that first")
  while _installed:
    entry = _installed.pop()
    setattr(entry.parent, entry.name, entry.original)
