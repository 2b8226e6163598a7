"""A demo of a few steps from nothing, shared by the tests that read what it leaves behind."""

import json
import subprocess
import sys

import pytest

STEPS = 24


def command(out, steps=STEPS, *options):
  return [sys.executable, "-m", "maxtext_sparse", "demo", "--out", str(out), "--steps", str(steps), *options]


def run(out, *options, steps=STEPS):
  return subprocess.run(command(out, steps, *options), capture_output=True, text=True, check=False, timeout=800)


def result_of(finished):
  assert finished.returncode == 0, finished.stderr
  return json.loads(finished.stdout)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
  """The folder of the demo, and what it printed with --json."""
  out = tmp_path_factory.mktemp("demo") / "out"
  return out, run(out, "--json")
