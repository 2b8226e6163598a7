"""The text files of this machine: which are read, in which order, and how much of the installed packages."""

import os
import shutil
import sysconfig

import pytest

from maxtext_sparse.local.sources import read_files, read_packages

PACKAGES = ("json", "email", "logging")


@pytest.fixture
def source(tmp_path):
  """A small tree of real text files."""
  for package in PACKAGES:
    shutil.copytree(os.path.join(sysconfig.get_path("stdlib"), package), tmp_path / "source" / package)
  return str(tmp_path / "source")


def test_other_peoples_code_and_tests_stay_out(source):
  for folder in ("site-packages", "test", "__pycache__", "encodings"):
    os.makedirs(os.path.join(source, folder, "deep"))
    with open(os.path.join(source, folder, "deep", "module.py"), "w", encoding="utf-8") as file:
      file.write("x = 1\n")
  assert {path.split("/")[0] for path in read_files(source)} == set(PACKAGES)


def test_files_in_other_encodings_are_left_out(source):
  with open(os.path.join(source, "json", "latin.py"), "wb") as file:
    file.write(b"# \xe9\n")
  os.symlink("nowhere", os.path.join(source, "json", "gone.py"))
  assert not {"json/latin.py", "json/gone.py"} & set(read_files(source))


def test_packages_are_read_until_there_is_enough_text(source):
  everything = read_packages(source, 10**9)
  part = read_packages(source, 50_000)
  assert list(everything)[: len(part)] == list(part), "the order does not depend on the amount"
  amount = sum(map(len, part.values()))
  assert amount >= 50_000 > amount - len(list(part.values())[-1])
  assert all(path.startswith("site-packages/") for path in part)


def test_packages_have_documentation_too(source):
  with open(os.path.join(source, "json", "guide.rst"), "w", encoding="utf-8") as file:
    file.write("A guide.")
  assert "site-packages/json/guide.rst" in read_packages(source, 10**9)
  assert "json/guide.rst" not in read_files(source)


def test_copies_and_tables_are_left_out(source):
  """A copy of a held-out file would let a model train on what it is evaluated on."""
  shutil.copy(os.path.join(source, "json", "decoder.py"), os.path.join(source, "json", "vendored.py"))
  with open(os.path.join(source, "json", "table.py"), "w", encoding="utf-8") as file:
    file.write("X = 1\n" * 40_000)
  found = read_packages(source, 10**9)
  assert "site-packages/json/table.py" not in found
  assert len({"site-packages/json/decoder.py", "site-packages/json/vendored.py"} & set(found)) == 1
  known = set(read_files(os.path.join(source, "json")).values())
  assert not any(path.startswith("site-packages/json/") for path in read_packages(source, 10**9, known))
