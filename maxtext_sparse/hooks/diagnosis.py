"""Whether the plugin fits an environment: versions, places and every hook, as one report (`maxtext-sparse doctor`)."""

from collections.abc import Iterator
import glob
import importlib
import importlib.metadata
import inspect
from pathlib import Path
from typing import Any

from maxtext_sparse import hooks
from maxtext_sparse.errors import ConfigError, HookError
from maxtext_sparse.hooks.registry import Hook
from maxtext_sparse.patching.tree import FOREIGN, PARTLY, Tree


def diagnose() -> dict[str, Any]:
  """Examines the environment without changing it.

  Returns:
    Versions, places, `hooks`, `hints` and `works`. Each hook has its target, found, signature_as_expected, problem, and
    its state: stock, ours, wrapped by another package, or missing.

  Raises:
    HookError: MaxText is not installed.
  """
  version = hooks.maxtext_version()
  path = Path(importlib.import_module("maxtext").__path__[0])
  rows = [_examine(hook) for hook in _table(version)]
  fits = bool(rows) and all(row["signature_as_expected"] for row in rows)
  patch = _patch_state(path)
  report = {
    "maxtext_version": version,
    "maxtext_path": str(path),
    "patch": patch,
    "jax_version": importlib.metadata.version("jax"),
    "devices": _devices(),
    "hooks": rows,
    "works": fits and _is_installable(version),
  }
  return report | {"hints": list(_hints(report))}


def _table(version: str) -> tuple[Hook, ...]:
  """The table that training would install; the latest release's if none fits, to show what does not."""
  from maxtext_sparse.hooks import table

  try:
    return hooks.fitting_hooks(version)
  except HookError:
    return table.hooks_for(hooks.SUPPORTED_VERSIONS[-1])


def _is_installable(version: str) -> bool:
  try:
    hooks.fitting_hooks(version)
  except HookError:
    return False
  return True


def _examine(hook: Hook) -> dict[str, Any]:
  row: dict[str, Any] = {"target": hook.target, "found": False, "signature_as_expected": False, "problem": None}
  try:
    _, _, current = hook.resolve()
    row["found"] = True
    row["state"] = _state(hook, current)
    hook.check()
    row["signature_as_expected"] = True
  except HookError as error:
    row["problem"] = str(error)
  return {"state": "missing"} | row


def _state(hook: Hook, current: Any) -> str:
  if hook.is_installed():
    return "ours"
  return "wrapped by another package" if inspect.unwrap(current) is not current else "stock"


def _patch_state(path: Path) -> str:
  try:
    return Tree(str(path)).status.state
  except ConfigError as error:
    return str(error)


def _devices() -> str:
  """The accelerators of this machine by their device files. Asking jax would take hold of them, or wait for them."""
  kinds = {
    "TPU": ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*"),
    "NVIDIA GPU": ("/dev/nvidia[0-9]*",),
    "AMD GPU": ("/dev/kfd",),
  }
  counts = {kind: sum(len(glob.glob(pattern)) for pattern in patterns) for kind, patterns in kinds.items()}
  found = [f"{count} x {kind}" for kind, count in counts.items() if count]
  return ", ".join(found) or "CPU only"


def _hints(report: dict[str, Any]) -> Iterator[str]:
  """One sentence for each thing that a user can do something about."""
  version = report["maxtext_version"]
  if not _is_installable(version):
    fit = "every hook fits" if all(row["signature_as_expected"] for row in report["hooks"]) else "not every hook fits"
    yield f"maxtext=={version} is not among {', '.join(hooks.SUPPORTED_VERSIONS)}; {fit} ({hooks.OVERRIDE}=1 tries)"
  yield from (row["problem"] for row in report["hooks"] if row["problem"])
  for row in report["hooks"]:
    if row["state"] == "wrapped by another package":
      yield f"{row['target']}: another package wrapped it before us; install the plugin first, or remove that one"
  if report["patch"] == FOREIGN:
    yield "the MaxText files that the patch set changes are locally modified; the plugin works, `patch apply` would not"
  if report["patch"] == PARTLY:
    yield "the patch set is half applied; run `maxtext-sparse patch apply` or `revert` to finish"
