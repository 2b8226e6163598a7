"""Exports into a bucket: the same files as on a disk, refused or replaced by the same rules, and nothing half done."""

from pathlib import Path

from etils import epath
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.export.write import export_checkpoint, ExportOptions
from maxtext_sparse.runs.listing import Listing
from tests.runs.memory_bucket import memory_bucket

__all__ = ["memory_bucket"]

OUT = "gs://bucket/models/s80"


def export(checkpoint, out=OUT, **options):
  return export_checkpoint(str(checkpoint), str(out), [], ExportOptions(**options))


def names(url=OUT):
  return Listing(url).names_in(url)


@pytest.mark.usefixtures("memory_bucket")
def test_the_files_are_those_of_a_local_export(checkpoint, tmp_path):
  export(checkpoint, tmp_path / "s80")
  export(checkpoint)
  local = {path.name: path.read_bytes() for path in (tmp_path / "s80").iterdir()}
  assert {name: (epath.Path(OUT) / name).read_bytes() for name in names()} == local


@pytest.mark.usefixtures("memory_bucket")
def test_a_folder_with_files_is_replaced_only_by_force_and_only_if_it_is_a_model(checkpoint):
  export(checkpoint)
  (epath.Path(OUT) / "old-shard.safetensors").write_text("old")
  with pytest.raises(ConfigError, match=f"OUT={OUT}: is not empty, give --force"):
    export(checkpoint)
  export(checkpoint, is_forced=True)
  assert "config.json" in names() and "old-shard.safetensors" not in names()
  (epath.Path(OUT) / "config.json").unlink()
  with pytest.raises(ConfigError, match=r"has no config\.json in it"):
    export(checkpoint, is_forced=True)


def test_an_upload_that_breaks_off_is_no_model_and_is_done_again(checkpoint, memory_bucket, monkeypatch):
  def break_off(here, there, **options):
    raise OSError("the network is down")

  with monkeypatch.context() as patch:
    patch.setattr(memory_bucket, "put", lambda self, here, there, **options: break_off(here, there))
    with pytest.raises(ConfigError, match=r"OUT=gs://bucket/models/s80: cannot be written \(the network is down\)"):
      export(checkpoint)
  assert names() == [".unfinished"]
  export(checkpoint)
  assert "config.json" in names() and ".unfinished" not in names()


def test_config_json_is_the_last_file(checkpoint, memory_bucket, monkeypatch):
  """Without it no loader takes the folder for a model."""
  uploaded: list[list[str]] = []
  put = memory_bucket.put

  def watch(self, here, there, **options):
    uploaded.append([Path(path).name for path in here])
    put(self, here, there, **options)

  monkeypatch.setattr(memory_bucket, "put", watch)
  export(checkpoint)
  assert len(uploaded) == 2 and uploaded[1] == ["config.json"] and "model.safetensors" in uploaded[0]
