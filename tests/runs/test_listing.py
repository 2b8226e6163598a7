"""Listings of a bucket: what they show, and that they show one moment."""

import threading

from etils import epath
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.listing import copy_files, Listing, NUM_AT_A_TIME, reachable, side_by_side
from tests.runs.memory_bucket import memory_bucket

__all__ = ["memory_bucket"]

TOP = "gs://bucket/study"


@pytest.fixture(autouse=True)
def files(memory_bucket):
  del memory_bucket
  for name in ("a/checkpoints/9/items/d", "a/checkpoints/9/mark", "a/one.txt", "a/two.txt", "b/three.txt"):
    write(f"{TOP}/{name}", name)


def write(url, text):
  path = epath.Path(url)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def test_a_listing_answers_like_a_path():
  top = Listing(TOP).path(TOP)
  run = top / "a"
  assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "one.txt", "two.txt"]
  assert sorted(str(path) for path in run.glob("t*.txt")) == [f"{TOP}/a/two.txt"]
  assert (run / "checkpoints" / "9" / "mark").exists() and (run / "checkpoints").exists()
  assert not (run / "checkpoints" / "8").exists() and not (run / "on").exists()
  assert (top / "b" / "three.txt").read_text() == "b/three.txt"


def test_a_folder_that_is_not_there_has_no_files():
  listing = Listing(f"{TOP}/c")
  folder = listing.path(f"{TOP}/c") / "metrics"
  assert listing.files == [] and not folder.exists() and list(folder.iterdir()) == []


def test_a_folder_is_not_its_neighbour_of_a_longer_name():
  write(f"{TOP}/ab/four.txt", "four")
  assert Listing(f"{TOP}/a").names_in(f"{TOP}/a") == Listing(TOP).names_in(f"{TOP}/a")


def test_a_listing_shows_the_moment_at_which_it_was_made():
  before = Listing(TOP)
  write(f"{TOP}/a/later.txt", "later")
  assert not before.has(f"{TOP}/a/later.txt") and Listing(TOP).has(f"{TOP}/a/later.txt")


def test_files_are_copied_within_the_bucket():
  copy_files(f"{TOP}/a", f"{TOP}/copy", ["one.txt", "checkpoints/9/mark"])
  assert Listing(f"{TOP}/copy").files == ["checkpoints/9/mark", "one.txt"]
  assert (epath.Path(TOP) / "copy" / "one.txt").read_text() == "a/one.txt"


def test_side_by_side_keeps_the_order_and_its_bound():
  running, most, lock = 0, 0, threading.Lock()

  def look(number):
    nonlocal running, most
    with lock:
      running += 1
      most = max(most, running)
    threading.Event().wait(0.01)
    with lock:
      running -= 1
    return -number

  assert side_by_side(look, range(100)) == [-number for number in range(100)]
  assert 1 < most <= NUM_AT_A_TIME


def test_errors_of_a_bucket_are_one_line():
  with pytest.raises(ConfigError) as error, reachable(TOP):
    raise RuntimeError("Cannot connect\n to host " + "x" * 500)
  assert str(error.value).startswith(f"{TOP}: cannot be read (Cannot connect to host xxx")
  assert len(str(error.value)) < 300 and "\n" not in str(error.value)
  with pytest.raises(RuntimeError), reachable("/here"):
    raise RuntimeError("a local error stays what it is")
