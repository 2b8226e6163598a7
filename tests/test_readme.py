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
PUBLIC_RUNS = REPO.parent / "shared" / "data"
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def shown_commands():
  """(command, output) of the console blocks, without those that need a cluster or a shell."""
  for block in _BLOCK.findall(README):
    for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
      command, _, output = entry.partition("\n")
      if command.startswith("maxtext-sparse") and not command.endswith("\\") and "|" not in command:
        yield pytest.param(command, output, id=command.removeprefix("maxtext-sparse ")[:60])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
  """A folder in which the README's commands find what they name: the configs and the public runs."""
  folder = tmp_path_factory.mktemp("readme")
  (folder / "configs").symlink_to(REPO / "configs")
  for name, source, table in (("t5-data.csv", "t5", "t5.csv"), ("vit-data.json", "vit", "vit.csv")):
    if (PUBLIC_RUNS / name).exists():
      (folder / name).symlink_to(PUBLIC_RUNS / name)
      assert run(f"maxtext-sparse convert {name} --source {source} --out {table}", folder).returncode == 0
  return folder


def run(command, folder):
  variables = os.environ | {"COLUMNS": "120", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPO)}
  arguments = [sys.executable, "-m", "maxtext_sparse", *shlex.split(command)[1:]]
  return subprocess.run(arguments, cwd=folder, env=variables, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("command, output", shown_commands())
def test_a_console_block_shows_what_the_command_prints(command, output, workspace):
  if re.search(r"\b(t5|vit)\b", command) and not PUBLIC_RUNS.exists():
    pytest.skip("the public runs are not here")
  done = run(command, workspace)
  assert done.returncode == 0, done.stderr
  # Another processor's rounding moves which starts arrive, and bootstraps; tests/laws holds the fits to 1e-6.
  rel = 0.1 if command.split()[1] in ("fit", "predict", "recommend") else 0.02
  assert len(done.stdout.split()) == len(output.split()), done.stdout
  for printed, shown in zip(done.stdout.split(), output.split()):
    assert printed == shown or numbers(printed) == pytest.approx(numbers(shown), rel=rel, abs=2e-4), done.stdout


def numbers(word):
  """The numbers in a word; an empty list never equals another word's."""
  return [float(n) for n in re.findall(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?", word)] or [float("nan")]


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
