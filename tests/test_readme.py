"""What the README shows is what the commands print: its console blocks are run and compared, its claims looked up."""

import os
from pathlib import Path
import re
import shlex
import subprocess
import sys

import pytest

from maxtext_sparse.config import KEYS
from maxtext_sparse.hooks import SUPPORTED_VERSIONS

REPO = Path(__file__).parents[1]
README = (REPO / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def shown_commands():
  """(command, output) of each console block that needs neither a cluster nor a shell."""
  for block in _BLOCK.findall(README):
    first, _, output = block.removeprefix("$ ").partition("\n")
    if first.startswith("maxtext-sparse") and not first.endswith("\\") and "|" not in first:
      yield pytest.param(first, output, id=first.removeprefix("maxtext-sparse ")[:60])


@pytest.mark.parametrize("command, output", shown_commands())
def test_a_console_block_shows_what_the_command_prints(command, output, tmp_path):
  variables = os.environ | {"COLUMNS": "120", "JAX_PLATFORMS": "cpu", "MPLCONFIGDIR": str(tmp_path)}
  if "../shared/" in command and not (REPO.parent / "shared" / "data").exists():
    pytest.skip("the public runs are not here")
  arguments = [sys.executable, "-m", "maxtext_sparse", *shlex.split(command)[1:]]
  done = subprocess.run(arguments, cwd=REPO, env=variables, capture_output=True, text=True, timeout=600, check=False)
  assert done.returncode == 0, done.stderr
  assert words(done.stdout) == words(output)


def words(text):
  return text.split()


def test_at_least_three_commands_are_shown():
  assert len(list(shown_commands())) >= 3


def test_the_set_up_commands_are_those_of_ci():
  ci = (REPO / ".ci" / "run").read_text(encoding="utf-8")
  install = re.search(r"^\.venv/bin/pip install (.*)$", README, re.MULTILINE)
  assert install and install[1] in ci
  assert "python3.12 -m venv .venv" in README and "python3.12 -m venv .venv" in ci
  assert ".venv/bin/python -m pytest" in README and ".venv/bin/python -m pytest" in ci


def test_every_key_and_every_release_is_documented():
  for key in KEYS:
    assert f"`{key}`" in README, key
  for release in SUPPORTED_VERSIONS:
    assert f"patches/maxtext-{release}.patch" in README, release


def test_every_file_and_folder_that_the_readme_names_exists():
  for path in set(re.findall(r"\b((?:launch|patches|configs|tests)/[\w./-]+\w)", README)):
    if "X" not in path and "{" not in path:
      assert (REPO / path).exists(), path
