"""Writes a folder into a bucket: it is made on this machine and then uploaded, the file that makes it complete last.

A bucket cannot rename a folder. So a file `.unfinished` says that an upload has begun, until all is there. What an upload
that was killed leaves behind has this file and lacks the last one, and the next attempt replaces it.
"""

from collections.abc import Iterator
import contextlib
import os
import tempfile

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.export.aside import written_aside
from maxtext_sparse.runs.listing import Listing, reachable, store_of

_UNFINISHED = ".unfinished"
# A file may be a shard of gigabytes, of which the client holds 50 MB.
_FILES_AT_A_TIME = 4


def check_bucket(out: str, is_forced: bool, marker: str) -> None:
  """Refuses a folder of a bucket that has files in it, before anything is read.

  Args:
    out: URL of the folder to write.
    is_forced: whether a folder that has `marker` in it may be replaced.
    marker: name of a file that every finished folder of the kind has.

  Raises:
    ConfigError: the folder has other files, or the bucket cannot be read.
  """
  with reachable(f"OUT={out}"):
    names = Listing(out).names_in(out)
  if not names or _UNFINISHED in names:
    return
  if not is_forced:
    raise ConfigError(f"OUT={out}: is not empty, give --force to replace it")
  if marker not in names:
    raise ConfigError(f"OUT={out}: has no {marker} in it, --force replaces only what this command wrote")


@contextlib.contextmanager
def uploaded(out: str, needed_bytes: int, marker: str) -> Iterator[str]:
  """A folder of this machine whose files replace those of OUT if nothing is raised.

  Args:
    out: URL of a folder.
    needed_bytes: room that the folder takes on this machine until it is uploaded.
    marker: the file that is uploaded last.

  Raises:
    ConfigError: no room here, or the bucket cannot be written.
  """
  with tempfile.TemporaryDirectory(prefix="maxtext_sparse_") as scratch:
    made = os.path.join(scratch, out.rstrip("/").rpartition("/")[2])
    with written_aside(made, is_forced=False, needed_bytes=needed_bytes) as folder:
      yield folder
    with reachable(f"OUT={out}", "written"):
      _upload(made, out.rstrip("/"), marker)


def _upload(folder: str, out: str, marker: str) -> None:
  store, unfinished = store_of(out), f"{out}/{_UNFINISHED}"
  old = sorted(Listing(out).files, key=lambda name: name != marker)
  store.pipe_file(unfinished, b"this folder is being uploaded\n")
  for name in old:
    if name != _UNFINISHED:
      store.rm_file(f"{out}/{name}")
  names = sorted(os.listdir(folder))
  for group in ([name for name in names if name != marker], [marker]):
    here, there = ([f"{place}/{name}" for name in group] for place in (folder, out))
    store.put(here, there, batch_size=_FILES_AT_A_TIME)
  store.rm_file(unfinished)
