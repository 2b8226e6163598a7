"""The real xpk, and a pod: what Kubernetes and bash make of a manifest, with a `python3` that says what reached it."""

import json
import os
from pathlib import Path
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from maxtext_sparse.cli import app
from maxtext_sparse.cluster.jobset import pod_of

REPO = Path(__file__).parents[2]
OPTIONS = {
  "cluster": "my-cluster",
  "project": "my-project",
  "zone": "us-central2-b",
  "tpu-type": "v5litepod-16",
  "docker-image": "gcr.io/my-project/maxtext-sparse:1",
}


@pytest.fixture(scope="session")
def xpk_path():
  """xpk 1.16 of the variable XPK or of .venv-xpk; CI must have it."""
  path = Path(os.environ.get("XPK") or REPO / ".venv-xpk" / "bin" / "xpk")
  if not path.exists():
    if os.environ.get("CI"):
      pytest.fail(f"{path} is missing: bash launch/xpk.sh")
    pytest.skip("xpk is not here: bash launch/xpk.sh")
  return str(path)


def flags(**changes):
  """The options of `launch xpk`, with changes; None leaves one out."""
  merged = OPTIONS | {name.replace("_", "-"): value for name, value in changes.items()}
  return [word for name, value in merged.items() if value is not None for word in (f"--{name}", str(value))]


def call(*words, **variables):
  """(exit status, stdout, stderr) of the shipped command."""
  result = CliRunner().invoke(app, [str(word) for word in words], env={"XPK": None} | variables)
  assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
  return result.exit_code, result.stdout, result.stderr


def expand(text, variables):
  """Kubernetes' rule for `command` and `env`: $(NAME) is replaced where NAME is known, $$ is a literal $."""

  def replace(match):
    name = match[1]
    return "$" if match[0] == "$$" else variables.get(name, match[0])

  return re.sub(r"\$\$|\$\(([^)]*)\)", replace, text)


class Pod:
  """The main container of a JobSet, run by this machine's bash."""

  def __init__(self, jobset, folder, python=""):
    container = pod_of(jobset)["containers"][-1]
    self.env = {}
    for item in container.get("env") or []:
      self.env[item["name"]] = expand(item["value"], self.env)
    self.command = [expand(word, self.env) for word in container["command"]]
    self._seen = folder / "seen.json"
    record = f"import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], open({str(self._seen)!r}, 'w'))"
    self._path = folder / "bin"
    self._path.mkdir()
    self._program("python3", f'{sys.executable} -S -c "{record}" "$@"\n{python}')
    self._program("sleep", "exec /bin/sleep 0.05")  # xpk's script looks every five seconds whether the run has ended

  def start(self):
    environment = {"PATH": f"{self._path}:{os.environ['PATH']}"} | self.env
    return subprocess.Popen(self.command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

  def run(self):
    """Exit status."""
    process = self.start()
    _, errors = process.communicate(timeout=60)
    assert errors == ""
    return process.returncode

  @property
  def seen(self):
    """(arguments, environment) of the `python3` in the pod."""
    return json.loads(self._seen.read_text(encoding="utf-8"))

  def _program(self, name, script):
    (self._path / name).write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
    (self._path / name).chmod(0o755)
