"""The README of the export shows what its commands print on the default demo, from the export to the evaluation."""

import hashlib
import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

from maxtext_sparse.demo import run_demo
from tests.evaluation.environment import harness_python
from tests.export import torch_environment
from tests.test_readme import numbers, OF_THE_DEMO, read, REPO, run

pytestmark = pytest.mark.slow

# Names the folder of a finished default demo, which takes minutes to make.
VARIABLE = "MAXTEXT_SPARSE_DEMO"
_BLOCK = re.compile(r"^```(console|bash|python)\n(.*?)^```(?:\n+^```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
_MADE_WITH = re.compile(r"<!-- made with weights of SHA-256 (\w{64}) -->")


def entries():
  """(language, command or program, output) in the order of the README."""
  found = []
  for language, body, output in _BLOCK.findall(read(OF_THE_DEMO)):
    if language == "python":
      found.append((language, body, output))
      continue
    if language == "bash":
      # These do not show what they print.
      found += [(language, command, "") for command in body.replace("\\\n", " ").splitlines()]
      continue
    for entry in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
      command, _, printed = entry.replace("\\\n", " ").partition("\n")
      found.append((language, command, printed))
  return found


ENTRIES = entries()
SHOWN = [place for place, (language, _, _) in enumerate(ENTRIES) if language != "bash"]
NAMES = [ENTRIES[place][1].removeprefix("maxtext-sparse ").split("\n")[0][:50] for place in SHOWN]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
  folder = tmp_path_factory.mktemp("readme")
  demo = Path(os.environ.get(VARIABLE) or folder / "demo_out").resolve()
  run_demo(str(demo), as_json=True)
  if demo != folder / "demo_out":
    (folder / "demo_out").symlink_to(demo)
  (folder / "maxtext_sparse").symlink_to(REPO / "maxtext_sparse")
  return folder


@pytest.fixture(scope="module")
def printed(workspace):
  """What each entry printed, by its place."""
  return [execute(language, source, workspace) for language, source, _ in ENTRIES]


def execute(language, source, folder):
  if language == "python":
    command = [torch_environment.torch_python(), "-c", source]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
  else:
    done = run(source, folder, harness_python() if source.split()[1] == "evaluate" else sys.executable)
  assert done.returncode == 0, f"{source}\n{done.stderr[-3000:]}"
  return done.stdout


@pytest.fixture(scope="module")
def is_same_model(workspace, printed):
  """Whether this machine's demo has the weights with which the README was made; another processor rounds otherwise."""
  (expected,) = _MADE_WITH.findall(read(OF_THE_DEMO))
  return hashlib.sha256((workspace / "s40-hf" / "model.safetensors").read_bytes()).hexdigest() == expected


@pytest.mark.parametrize("place", SHOWN, ids=NAMES)
def test_the_readme_shows_what_is_printed(printed, is_same_model, place):
  found, shown = printed[place], ENTRIES[place][2]
  if is_same_model:
    # The last digits of a score depend on the library that multiplies.
    assert len(found.split()) == len(shown.split()), found
    for word, expected in zip(found.split(), shown.split()):
      assert word == expected or numbers(word) == pytest.approx(numbers(expected), abs=2e-4), found
  else:
    first = [line.split()[:1] for line in found.splitlines()]
    assert first == [line.split()[:1] for line in shown.splitlines()] or ENTRIES[place][0] == "python", found
    assert found.strip()


def test_the_readme_shows_every_command():
  shown = [source.split()[1] for language, source, _ in ENTRIES if language == "console"]
  assert {"export", "verify", "inspect", "evaluate", "import"} <= set(shown)
  assert any("transformers" in source for language, source, _ in ENTRIES if language == "python")
