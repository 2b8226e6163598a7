"""Real file systems that are small or read-only, for tests of what happens where nothing more can be written."""

import contextlib
import subprocess

import pytest


@pytest.fixture
def mounted():
  """Calls `mount` with options and a folder. Skips the test, and says so, where this user may not mount."""
  places = set()

  def mount(place, *options):
    if subprocess.run(["mount", *options, str(place)], capture_output=True, check=False).returncode != 0:
      pytest.skip(f"NOT TESTED on a real file system: this user may not `mount {' '.join(options)}`")
    places.add(place)

  yield mount
  for place in places:
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def small_disk(mounted, place, megabytes: int):
  """Mounts an empty file system of this size at a new folder, and returns the folder."""
  place.mkdir()
  mounted(place, "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs")
  return place


def grow(place, megabytes: int) -> None:
  """Gives a small disk more room."""
  subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(place)], check=True)


def fill(place) -> None:
  """Takes all the room that is left, in a file `filler`."""
  with open(place / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
    while file.write(bytes(4096)):
      pass
