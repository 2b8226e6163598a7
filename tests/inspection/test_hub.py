"""Models by their name on the Hub: downloaded by `huggingface_hub` itself, from a server that stands for the Hub."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inspection.hub import local_folder
from tests.inspection.hub_server import BRANCH, COMMIT, running, variables

NAME = "owner/model"


@pytest.fixture(scope="module")
def hub():
  with running() as hub:
    yield hub


@pytest.fixture
def published(hub, tmp_path, exported):
  """A copy of the export that the Hub has as `NAME`."""
  hub.models[NAME] = shutil.copytree(exported, tmp_path / "published")
  hub.downloads.clear()
  return hub.models[NAME]


def run(hub, cache, *arguments, **environment):
  command = [sys.executable, "-m", "maxtext_sparse", *map(str, arguments)]
  env = os.environ | variables(hub, cache) | environment
  return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=cache)


def test_verify_downloads_weights_and_certificate_and_nothing_else(hub, published, tmp_path):
  (published / "pytorch_model.bin").write_bytes(b"other weights")
  done = run(hub, tmp_path, "verify", NAME)
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.splitlines()[-1] == f"{NAME}: is what it claims to be"
  assert {name for name in os.listdir(published) if name.endswith((".safetensors", ".json"))} == set(hub.downloads)
  hub.downloads.clear()
  again = run(hub, tmp_path, "verify", f"hf://{NAME}@{BRANCH}", HF_HUB_OFFLINE="1")
  assert again.returncode == 0 and not hub.downloads, "the first call's copy serves without a network"


def test_verify_names_the_damaged_file_of_the_hubs_model(hub, published, tmp_path):
  shard = sorted(published.glob("*.safetensors"))[1]
  shard.write_bytes(shard.read_bytes()[:-8] + bytes(8))
  done = run(hub, tmp_path, "verify", NAME, "--json")
  result = json.loads(done.stdout)
  assert done.returncode == 1 and not result["ok"]
  assert any(line.startswith(f"{shard.name}: its content is not") for line in result["problems"])


def test_inspect_calls_the_model_by_its_name(hub, published, tmp_path):
  done = run(hub, tmp_path, "inspect", f"{NAME}@{COMMIT}", "--json", "--compare", published)
  result = json.loads(done.stdout)
  assert result["title"] == f"{NAME}@{COMMIT}" and result["compare"]["jaccard"] == 1.0
  assert result["nonzero"] == json.loads((published / "sparsity.json").read_text())["nonzero"]


@pytest.mark.parametrize(
  ("name", "environment", "expected"),
  [
    ("owner/modle", {}, "owner/modle: no such folder here, and no such model on the Hub, or a private one"),
    (f"{NAME}@v2", {}, f"{NAME}@v2: no such folder here, and the Hub's model has no such revision"),
    (NAME, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "and the Hub cannot be reached, nor was the model downloaded before"),
    (NAME, {"HF_HUB_OFFLINE": "1"}, "and the Hub cannot be reached, nor was the model downloaded before"),
  ],
)
def test_a_model_that_is_not_to_be_had_is_one_line(hub, published, tmp_path, name, environment, expected):
  done = run(hub, tmp_path, "verify", name, **environment)
  assert done.returncode == 2 and not done.stdout
  (line,) = done.stderr.strip().splitlines()
  assert expected in line


def test_a_path_with_a_mistake_in_it_is_not_looked_up(tmp_path, monkeypatch):
  (tmp_path / "out").mkdir()
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  for path in ("out/hf", "./hf", "../a/b", "/a/b", "hf", "a/b/c"):
    assert local_folder(path) == path
  with pytest.raises(ConfigError, match=r"a/b: no such folder here; .* pip install 'maxtext-sparse\[export\]'"):
    local_folder("a/b")
