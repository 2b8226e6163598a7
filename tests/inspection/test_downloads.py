"""Model folders in a bucket are copied here; checkpoints, which Orbax reads there, are not."""

import os

from etils import epath
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inspection import downloads
from maxtext_sparse.inspection.downloads import copy_from_bucket
from tests.runs.memory_bucket import memory_bucket

__all__ = ["memory_bucket"]


@pytest.fixture(autouse=True)
def _no_earlier_copy():
  copy_from_bucket.cache_clear()


def write(url, text):
  path = epath.Path(url)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


@pytest.mark.usefixtures("memory_bucket")
def test_the_files_of_a_model_folder_are_copied_once():
  for name in ("config.json", "model.safetensors", "report/figure.png"):
    write(f"gs://bucket/s80/{name}", name)
  folder = copy_from_bucket("gs://bucket/s80/")
  assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"] and os.path.basename(folder) == "s80"
  assert copy_from_bucket("gs://bucket/s80/") == folder


@pytest.mark.usefixtures("memory_bucket")
def test_what_is_no_model_folder_is_left_where_it_is():
  write("gs://bucket/run/checkpoints/9/items/manifest.ocdbt", "x")
  for url in ("gs://bucket/run", "gs://bucket/nothing"):
    assert copy_from_bucket(url) == url


@pytest.mark.usefixtures("memory_bucket")
def test_a_model_that_does_not_fit_here_is_refused(monkeypatch):
  write("gs://bucket/s80/config.json", "{}")
  monkeypatch.setattr(downloads.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1}))
  with pytest.raises(ConfigError, match=r"gs://bucket/s80: needs 2 bytes in .*, which has 1; set TMPDIR"):
    copy_from_bucket("gs://bucket/s80")
