"""Writes local files so that nobody sees half of one, and lets one process at a time work in a folder."""

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import time
from typing import Any, IO

from maxtext_sparse.errors import ConfigError

LOCK_FILE = ".lock"
_SECONDS_BETWEEN_ATTEMPTS = 0.2


def replace_text(path: str, text: str) -> None:
  """Writes a local file so that a reader, or a run that is killed, finds the old text or the new one, never a part.

  The text is on disk when this returns. If it cannot be written, for example because the disk is full, the old text stays
  and no other file is left behind.

  Raises:
    OSError: the file cannot be written.
  """
  aside = f"{path}.tmp"
  try:
    with open(aside, "w", encoding="utf-8") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(aside, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.remove(aside)
    raise


def replace_json(path: str, content: Any, **style: Any) -> None:
  """`replace_text` with `content` as JSON; `style` as for `json.dumps`."""
  replace_text(path, json.dumps(content, **{"indent": 1, **style}) + "\n")


def check_writable(name: str, path: str, value: str | None = None) -> str:
  """Checks that a folder can be written, or made where it is missing.

  Args:
    name: the key or option that gives the folder, for the message.
    path: the folder.
    value: what the key or option says, if not the folder itself.

  Returns:
    The folder itself, or the nearest one above it that exists.

  Raises:
    ConfigError: saying what is in the way.
  """
  if not path:
    raise ConfigError(f"{name}=: must be a folder")
  given = f"{name}={path if value is None else value}"
  nearest = os.path.abspath(os.path.expanduser(path))
  while not os.path.lexists(nearest):
    nearest = os.path.dirname(nearest)
  if not os.path.isdir(nearest):
    raise ConfigError(f"{given}: {nearest} is not a folder, choose another place")
  if not os.access(nearest, os.W_OK | os.X_OK):
    raise ConfigError(f"{given}: may not write in {nearest}, choose another place")
  return nearest


@contextlib.contextmanager
def folder_lock(directory: str, refusal: str) -> Iterator[None]:
  """Makes this process the only one that works in a folder. The system drops the lock however the process ends.

  Args:
    directory: an existing folder; the lock is a file in it.
    refusal: the whole message if another process holds the lock.

  Raises:
    ConfigError: another process holds the lock.
    OSError: the folder cannot be written.
  """
  with open(os.path.join(directory, LOCK_FILE), "w", encoding="utf-8") as file:
    # A reader holds the lock for a moment in `is_locked`, so one refusal says little.
    if not _try_lock(file, attempts=5):
      raise ConfigError(refusal)
    yield


def is_locked(directory: str) -> bool:
  """Whether a process works in the folder now."""
  try:
    with open(os.path.join(directory, LOCK_FILE), encoding="utf-8") as file:
      return not _try_lock(file, attempts=1)
  except FileNotFoundError:
    return False


def _try_lock(file: IO[str], attempts: int) -> bool:
  for attempt in range(attempts):
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return True
    except BlockingIOError:
      if attempt < attempts - 1:
        time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
  return False
