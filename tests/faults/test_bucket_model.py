"""Model folders in a bucket: exported there, verified, inspected, imported and evaluated from there."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.evaluation.conftest import readable
from tests.faults import bucket
from tests.faults.bucket import port, Proxy, URL
from tests.hooks.harness import environment

__all__ = ["port", "readable"]

pytestmark = pytest.mark.slow

MODEL = f"{URL}/models/readable"


def run(port, *arguments):
  return subprocess.run(
    [sys.executable, "-m", "maxtext_sparse", *arguments],
    env=environment() | bucket.variables(port),
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
  )


def shown(port, *arguments):
  done = run(port, *arguments, "--json")
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.fixture(scope="module")
def model(port, readable):
  """The export of the same checkpoint as the local folder `readable`."""
  done = run(port, "export", str(readable.parent / "run"), MODEL)
  assert done.returncode == 0, done.stderr
  return MODEL


def test_the_folder_is_that_of_a_local_export(port, model, readable):
  files = {path.name: path.read_bytes() for path in readable.iterdir()}
  assert {name: bucket.content(port, f"models/readable/{name}") for name in files} == files
  assert len(bucket.objects(port, "models/readable/")) == len(files)
  again = run(port, "export", str(readable.parent / "run"), model)
  assert again.returncode == 2 and f"OUT={MODEL}: is not empty, give --force" in again.stderr


def test_it_is_verified_inspected_and_imported_from_there(port, model, readable, tmp_path):
  assert shown(port, "verify", model) == shown(port, "verify", str(readable))
  assert shown(port, "inspect", model)["density"] == shown(port, "inspect", str(readable))["density"]
  assert shown(port, "import", model, str(tmp_path / "mt"))["nonzero"] > 0


def test_a_damaged_file_in_the_bucket_is_named(port, readable):
  damaged = f"{URL}/models/damaged"
  done = run(port, "export", str(readable.parent / "run"), damaged)
  assert done.returncode == 0, done.stderr
  bucket.upload(port, "models/damaged/model.safetensors", b"cut short")
  done = run(port, "verify", damaged)
  assert done.returncode == 1 and "model.safetensors: has 9 bytes, claimed are" in done.stdout + done.stderr


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed")
def test_it_is_evaluated_like_the_local_folder(port, model, readable):
  text = str(readable.parent / "text.jsonl")
  options = ("--tasks", "next_line,held_out", "--text", text, "--backend", "numpy", "--limit", "6")
  results = shown(port, "evaluate", model, str(readable), *options)["results"]
  assert results[model] == results[str(readable)] and results[model]["held_out"]["bits_per_byte"] > 0


def test_a_bucket_that_is_gone_or_not_writable_is_one_line(port, readable, tmp_path):
  for reason, methods in (("404", ("GET",)), ("403", ("POST", "PUT"))):
    proxy = Proxy(port, fault=lambda number, method, path, r=reason, m=methods: r if method in m else "")
    try:
      done = run(proxy.port, "export", str(readable.parent / "run"), f"{URL}/models/refused")
    finally:
      proxy.close()
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"maxtext-sparse: error: OUT={URL}/models/refused: cannot be ")
  assert bucket.objects(port, "models/refused/") == {}
  missing = run(port, "verify", f"{URL}/models/nothing")
  assert missing.returncode != 0 and "no such folder" in missing.stderr + missing.stdout
