"""Writes a folder aside and renames it when it is complete: a killed process leaves nothing that looks finished."""

from collections.abc import Iterator
import contextlib
import errno
import os
import shutil
import tempfile

from maxtext_sparse.errors import ConfigError

# Room for the small files and the file system's own needs.
_SPARE_BYTES = 50_000_000


def check_target(out: str, is_forced: bool, marker: str) -> None:
  """Refuses a target that is no local folder or has files in it, before anything is read.

  Args:
    out: the folder to write.
    is_forced: whether a folder that has `marker` in it may be replaced.
    marker: name of a file that every finished folder of the kind has.

  Raises:
    ConfigError: the target cannot be written.
  """
  if "://" in out:
    raise ConfigError(f"OUT={out}: must be a folder of this machine")
  if os.path.exists(out) and not os.path.isdir(out):
    raise ConfigError(f"OUT={out}: is a file, must be a folder")
  if os.path.isdir(out) and os.listdir(out):
    if not is_forced:
      raise ConfigError(f"OUT={out}: is not empty, give --force to replace it")
    if not os.path.exists(os.path.join(out, marker)):
      raise ConfigError(f"OUT={out}: has no {marker} in it, --force replaces only what this command wrote")


@contextlib.contextmanager
def written_aside(out: str, is_forced: bool, needed_bytes: int) -> Iterator[str]:
  """A folder beside OUT that becomes OUT if nothing is raised, and vanishes otherwise."""
  out = os.path.abspath(os.path.expanduser(out))
  parent, name = os.path.split(out)
  prefix = f".{name}.unfinished-"
  try:
    os.makedirs(parent, exist_ok=True)
    for entry in os.listdir(parent):
      if entry.startswith(prefix):  # of a process that was killed
        shutil.rmtree(os.path.join(parent, entry), ignore_errors=True)
    free = shutil.disk_usage(parent).free
    if free < needed_bytes + _SPARE_BYTES:
      raise ConfigError(f"OUT={out}: {free:,} bytes free on that disk, this needs {needed_bytes + _SPARE_BYTES:,}")
    aside = tempfile.mkdtemp(prefix=prefix, dir=parent)
  except OSError as error:
    raise ConfigError(f"OUT={out}: cannot write there ({error.strerror or error})") from error
  try:
    yield aside
    os.chmod(aside, 0o755)
    _replace_folder(aside, out, is_forced)
  except OSError as error:
    reason = "no space left on that disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
    raise ConfigError(f"OUT={out}: cannot write there ({reason})") from error
  finally:
    shutil.rmtree(aside, ignore_errors=True)


def _replace_folder(aside: str, out: str, is_forced: bool) -> None:
  if os.path.isdir(out):
    if is_forced:
      old = tempfile.mkdtemp(prefix=f".{os.path.basename(out)}.unfinished-", dir=os.path.dirname(out))
      os.rename(out, os.path.join(old, "old"))
      os.rename(aside, out)
      shutil.rmtree(old, ignore_errors=True)
      return
    os.rmdir(out)  # empty, or it would have been refused
  os.rename(aside, out)
