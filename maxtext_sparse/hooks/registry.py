"""Installs and removes hooks. A hook replaces one attribute of MaxText by a wrapper around the original.

The registry keeps three promises:

  all or none   `install` checks every target before it replaces the first one. If a step fails half-way, for example
                because a wrapper cannot be built, the attributes that were already replaced get their originals back.
  one for one   no attribute has two of our hooks, under whatever names they reach it.
  reversible    `uninstall` restores the originals in reverse order. It refuses when someone else replaced one of the
                attributes since, because restoring ours would silently drop theirs.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import importlib
import inspect
from typing import Any

from maxtext_sparse.errors import HookError

# Any function of MaxText, and the wrapper that takes its place.
Function = Callable[..., Any]

_MARK = "_maxtext_sparse_hook"


@dataclasses.dataclass(frozen=True)
class Hook:
  """One attribute of MaxText that is replaced.

  Attributes:
    target: `package.module:attribute` or `package.module:Class.attribute`.
    parameters: names of the target's parameters in order. The hook does not fit if the installed MaxText has others.
    wrap: takes the original function and returns its replacement.
    reason: why this attribute and no other.
    proof: the test file that fails when the hook no longer does its work.
  """

  target: str
  parameters: tuple[str, ...]
  wrap: Callable[[Function], Function]
  reason: str
  proof: str

  def resolve(self) -> tuple[Any, str, Function]:
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
    """Checks that the target exists and takes the parameters that the wrapper relies on.

    Raises:
      HookError: it does not.
    """
    _, _, current = self.resolve()
    found = tuple(inspect.signature(inspect.unwrap(current)).parameters)
    if found != self.parameters:
      raise HookError(f"{self.target}: takes ({', '.join(found)}), expected ({', '.join(self.parameters)})")

  def is_installed(self) -> bool:
    """Whether the target's current value is this hook's replacement."""
    return getattr(self.resolve()[2], _MARK, None) is self


@dataclasses.dataclass(frozen=True)
class _Installed:
  hook: Hook
  parent: Any
  name: str
  original: Function
  replacement: Function


# In the order of installation.
_installed: list[_Installed] = []


def install(hooks: Sequence[Hook]) -> None:
  """Installs all hooks, or none if one of them fails. Hooks that are installed already stay as they are.

  Raises:
    HookError: a target is missing, takes other parameters than expected, or would get two hooks.
  """
  missing = [hook for hook in hooks if not hook.is_installed()]
  for hook in missing:
    hook.check()
  _refuse_aliases(missing)
  num_before = len(_installed)
  try:
    for hook in missing:
      _replace(hook)
  except BaseException:
    _restore(num_before)
    raise


def uninstall() -> None:
  """Puts every original back.

  Raises:
    HookError: someone else replaced a hooked attribute since. Nothing is changed then.
  """
  for entry in _installed:
    if getattr(entry.parent, entry.name) is not entry.replacement:
      raise HookError(f"{entry.hook.target}: wrapped by someone else since, remove that wrapper first")
  _restore(0)


def _refuse_aliases(hooks: Sequence[Hook]) -> None:
  """Raises HookError if two hooks reach one attribute: `a.b:C.f` and `a:b.C.f` are two names of the same function."""
  taken = {(id(entry.parent), entry.name): entry.hook for entry in _installed}
  for hook in hooks:
    parent, name, _ = hook.resolve()
    other = taken.setdefault((id(parent), name), hook)
    if other is not hook:
      raise HookError(f"{hook.target}: {other.target} replaces this attribute already, keep one of the two hooks")


def _replace(hook: Hook) -> None:
  parent, name, original = hook.resolve()
  # `functools.wraps` keeps the original reachable as `__wrapped__`, which `check` and `doctor` look through.
  replacement = functools.wraps(original)(hook.wrap(original))
  setattr(replacement, _MARK, hook)
  setattr(parent, name, replacement)
  _installed.append(_Installed(hook, parent, name, original, replacement))


def _restore(num_kept: int) -> None:
  """Undoes the latest installations until `num_kept` are left."""
  while len(_installed) > num_kept:
    entry = _installed.pop()
    setattr(entry.parent, entry.name, entry.original)
