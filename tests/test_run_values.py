"""The places that a run writes to are looked at before MaxText starts, here on real small and read-only file systems."""

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.run_values import check_places, given_values
from tests.cli.bad_rows import run
from tests.disks import fill, grow, mounted, small_disk

__all__ = ["mounted"]


def test_an_output_folder_without_room_is_refused_until_there_is_room(mounted, tmp_path):
  disk = small_disk(mounted, tmp_path / "disk", megabytes=8)
  runs = str(disk / "runs" / "new")
  with pytest.raises(ConfigError) as error:
    check_places({"base_output_directory": runs})
  assert str(error.value) == (
    f"base_output_directory={runs}: 8 MB free on that disk, must be at least 20 MB; free some or choose another folder"
  )
  grow(disk, megabytes=100)
  check_places({"base_output_directory": runs})
  fill(disk)
  with pytest.raises(ConfigError, match="0 MB free on that disk"):
    check_places({"base_output_directory": runs})
  (disk / "filler").unlink()
  assert list(disk.iterdir()) == []


def test_train_names_a_full_disk_in_one_line_and_writes_nothing(mounted, tmp_path):
  disk = small_disk(mounted, tmp_path / "disk", megabytes=8)
  result = run(f"train base.yml hardware=cpu run_name=x base_output_directory={disk}")
  assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
  assert f"base_output_directory={disk}: 8 MB free on that disk" in result.stderr and list(disk.iterdir()) == []


@pytest.mark.parametrize("key", ["base_output_directory", "metrics_file"])
def test_a_read_only_file_system_is_refused(mounted, tmp_path, key):
  place = tmp_path / "place"
  place.mkdir()
  mounted(place, "--bind", str(place))
  mounted(place, "-o", "remount,bind,ro")
  with pytest.raises(ConfigError) as error:
    check_places({key: str(place / "new")})
  assert str(error.value) == f"{key}={place / 'new'}: may not write in {place}, choose another place"


def test_a_relative_output_folder_is_refused_where_maxtext_saves_checkpoints(tmp_path, monkeypatch):
  """MaxText finds out at the first checkpoint, when the run has trained for a while."""
  monkeypatch.chdir(tmp_path)
  values = {"base_config": "base.yml", "base_output_directory": "out"}
  with pytest.raises(ConfigError) as error:
    check_places(values)
  assert str(error.value) == (
    f"base_output_directory=out: MaxText saves checkpoints only below an absolute path, write {tmp_path / 'out'}"
  )
  for others in ({"enable_checkpointing": False}, {"checkpoint_storage_use_ocdbt": False}):
    check_places(values | others)
  check_places(given_values([], ["base_output_directory=out"], {"M_ENABLE_CHECKPOINTING": "False"}))
