"""Model folders in a bucket: a copy on this machine for as long as a command needs it."""

import atexit
import functools
import os
import shutil
import tempfile
from typing import Any

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.listing import reachable, store_of
from maxtext_sparse.weights.folder import CONFIG_FILE


@functools.cache
def copy_from_bucket(url: str) -> str:
  """The folder of a copy of a model folder, which is removed when this process ends; the URL itself if it is no model.

  Raises:
    ConfigError: the bucket cannot be read, or there is no room for the copy.
  """
  url, store = url.rstrip("/"), store_of(url)
  with reachable(url):
    sizes = {info["name"].rpartition("/")[2]: info["size"] for info in _files_in(url)}
    if not any(name.endswith(".safetensors") or name == CONFIG_FILE for name in sizes):
      return url
    folder = os.path.join(_scratch(), url.rpartition("/")[2])
    os.makedirs(folder)
    _check_room(url, folder, sum(sizes.values()))
    store.get([f"{url}/{name}" for name in sizes], [os.path.join(folder, name) for name in sizes], batch_size=4)
  return folder


def _files_in(url: str) -> list[dict[str, Any]]:
  """Name and size of the files of a folder, not of those in folders below it; [] if there is no such folder."""
  try:
    return [info for info in store_of(url).ls(url, detail=True) if info["type"] == "file"]
  except FileNotFoundError:
    return []


def _check_room(url: str, folder: str, num_bytes: int) -> None:
  free = shutil.disk_usage(folder).free
  if free < num_bytes:
    raise ConfigError(f"{url}: needs {num_bytes:,} bytes in {tempfile.gettempdir()}, which has {free:,}; set TMPDIR")


def _scratch() -> str:
  folder = tempfile.mkdtemp(prefix="maxtext_sparse_")
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return folder
