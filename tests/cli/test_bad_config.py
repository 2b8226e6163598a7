"""Every command that takes a run's arguments refuses a bad one in the same words, before it compiles or writes."""

import os
from pathlib import Path
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner
import yaml

from maxtext_sparse.cli import app

REPO = Path(__file__).parents[2]
FLAGS = ["--cluster=c", "--project=my-project", "--zone=us-central2-b", "--tpu-type=v5p-8", "--docker-image=a/b:1"]
COMMANDS = {
  "train": ["train"],
  "run": ["run", "maxtext.trainers.pre_train.train_compile"],
  "launch command": ["launch", "command"],
  "launch xpk": ["launch", "xpk", *FLAGS],
  "launch xpk --dry-run": ["launch", "xpk", *FLAGS, "--dry-run"],
  "preflight": ["preflight", "--topology", "v5e-16"],
  "params": ["params"],
  "plan": ["plan"],
  "plan --twin": ["plan", "--twin"],
}
# What is given -> what the line must name.
BAD = {
  "missing.yml": "missing.yml: no such config file",
  "folder.yml": "folder.yml: is a folder",
  "binary.yml": "binary.yml: is not a text file",
  "tabs.yml": "tabs.yml: is not YAML",
  "list.yml": "list.yml: is not a MaxText config",
  "empty.yml": "empty.yml: is empty",
  "twice.yml": "twice.yml: is not YAML that MaxText can read, line 2, column 1: the key steps is there twice",
  "self.yml": "self.yml: this file is based on itself",
  "orphan.yml": "orphan.yml: base_config=gone.yml: no such file",
  "unknown.yml": "unknown.yml: stesp=5: MaxText has no such key, did you mean steps?",
  "sparsty=0.8": "sparsty=0.8: MaxText has no such key, did you mean sparsity?",
  "steps=1 steps=2": "steps=2: steps=1 is given too, keep one",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name, content in {
    "binary.yml": b"\x00\xff\xfe",
    "tabs.yml": b"debug:\n\trl: true\n",
    "list.yml": b"- 1\n",
    "empty.yml": b"",
    "twice.yml": b"steps: 1\nsteps: 2\n",
    "self.yml": b"base_config: self.yml\n",
    "orphan.yml": b"base_config: gone.yml\n",
    "unknown.yml": b"stesp: 5\n",
  }.items():
    (tmp_path / name).write_bytes(content)
  (tmp_path / "folder.yml").mkdir()
  return tmp_path


def refused(words, environment=None):
  """The one line with which a command refuses, after at most two seconds."""
  began = time.process_time()
  result = CliRunner().invoke(app, words, prog_name="maxtext-sparse", env=environment)
  assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
  assert result.stderr.startswith("maxtext-sparse: error: ")
  assert time.process_time() - began < 2
  return result.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("given", BAD)
def test_a_bad_argument_is_refused_the_same_by_every_command(folder, command, given):
  before = sorted(folder.rglob("*"))
  assert BAD[given] in refused([*COMMANDS[command], *given.split()])
  assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("command", [name for name in COMMANDS if "launch" not in name])
def test_a_variable_that_maxtext_would_ignore_or_that_contradicts_is_refused(folder, command):
  words = [*COMMANDS[command], "steps=10"]
  assert "M_SPARSTY: MaxText ignores this variable, did you mean M_SPARSITY?" in refused(words, {"M_SPARSTY": "0.8"})
  assert "M_STEPS=5: steps=10 is on the command line too, keep one" in refused(words, {"M_STEPS": "5"})


@pytest.mark.parametrize(
  "given", ["missing.yml", "folder.yml", "binary.yml", "tabs.yml", "list.yml", "empty.yml", "twice.yml"]
)
def test_a_sweep_refuses_its_base_in_the_same_words(folder, given):
  spec = folder / "spec.yml"
  spec.write_text(yaml.safe_dump({"name": "s", "base": given, "axes": {"sparsity": [0.5]}}), encoding="utf-8")
  line = refused(["sweep", "make", str(spec), "--out", "out"])
  assert given in line and not (folder / "out").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_file_that_may_not_be_read_is_one_line(folder):
  secret = folder / "secret.yml"
  secret.write_text("steps: 5\n", encoding="utf-8")
  secret.chmod(0o600)
  for path in (folder, *folder.parents[:2]):  # pytest makes these for its own user alone
    path.chmod(0o755)
  code = "import os, sys; from maxtext_sparse.cli import main; from maxtext_sparse import entry; os.setuid(65534); main()"
  done = subprocess.run(
    [sys.executable, "-c", code, "train", str(secret)],
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": str(REPO)},
  )
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert f"{secret}: cannot read this config file (Permission denied)" in done.stderr
