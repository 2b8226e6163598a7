"""Files are replaced whole, and a folder has one owner at a time."""

import json
import subprocess
import sys

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.runs.files import folder_lock, is_locked, replace_json, replace_text


def test_a_file_is_replaced_whole_and_nothing_is_left_aside(tmp_path):
  path = tmp_path / "a.json"
  replace_text(str(path), "old")
  replace_json(str(path), {"a": [1]}, indent=None)
  assert json.loads(path.read_text()) == {"a": [1]}
  assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
  path = tmp_path / "a.json"
  replace_text(str(path), "old")
  with pytest.raises(TypeError):
    replace_json(str(path), {"a": object()})
  assert path.read_text() == "old"


def test_a_write_that_fails_halfway_leaves_no_other_file(tmp_path):
  path = tmp_path / "a.txt"
  replace_text(str(path), "old")
  with pytest.raises(UnicodeEncodeError):
    replace_text(str(path), "half \ud800")
  assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_has_one_owner(tmp_path):
  assert not is_locked(str(tmp_path))
  with folder_lock(str(tmp_path), "busy"):
    assert is_locked(str(tmp_path))
    with pytest.raises(ConfigError, match=r"^busy$"), folder_lock(str(tmp_path), "busy"):
      pass
  assert not is_locked(str(tmp_path))


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
  code = (
    "import sys, time; from maxtext_sparse.runs.files import folder_lock\n"
    "with folder_lock(sys.argv[1], 'busy'): print(flush=True); time.sleep(60)"
  )
  owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
  assert owner.stdout is not None and owner.stdout.readline()
  assert is_locked(str(tmp_path))
  owner.kill()
  owner.communicate()
  assert not is_locked(str(tmp_path))
