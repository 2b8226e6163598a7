"""A bucket in memory under gs:// names, which counts how often it is listed."""

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
import pytest


class Bucket(MemoryFileSystem):
  """fsspec's own in-memory file system, reached by the names of Google's."""

  protocol = ("gs", "gcs")
  store: dict = {}
  pseudo_dirs = [""]
  num_listings = 0

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(str(path).removeprefix("gs://"))

  def find(self, path, *args, **kwargs):
    Bucket.num_listings += 1
    return super().find(path, *args, **kwargs)


@pytest.fixture
def memory_bucket():
  """An empty bucket."""
  # epath asks for it under this name, and keeps it.
  fsspec.register_implementation("gcs", Bucket, clobber=True)
  Bucket.store.clear()
  return Bucket
