"""Bad inputs of all commands: each is refused in one line that names what is wrong, in seconds, and nothing is written.

The inputs are the tables in `bad_input/`: exit status, command line, and what the line must say, where `...` stands for
any text. `bad_files.py` writes the files that they name, `bad_rows.py` reads and runs the rows. Leading words NAME=VALUE
in capitals are environment variables. `python -m tests.cli.bad_rows` prints the totals by verdict.
"""

import importlib.abc
import json
import os
from pathlib import Path
import shlex
import subprocess
import sys

import pytest

from maxtext_sparse.cli import app
from tests.cli.bad_files import write_files
from tests.cli.bad_rows import all_rows, contents, judge, REFUSED, TRACEBACK

REPO = Path(__file__).parents[2]
CASES = [pytest.param(*row, id=row[1]) for row in all_rows()]


class NoMaxText(importlib.abc.MetaPathFinder):
  """Fails the test if a command imports MaxText, which takes half a minute."""

  def find_spec(self, name, path=None, target=None):
    assert not name.startswith("maxtext."), f"{name} was imported before the input was refused"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  made = tmp_path_factory.mktemp("bad")
  write_files(made)
  return made


@pytest.fixture
def here(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.setattr(sys, "meta_path", [NoMaxText(), *sys.meta_path])
  return folder


@pytest.mark.parametrize(("status", "line", "says"), CASES)
def test_a_bad_input_is_refused_in_one_line_and_writes_nothing(here, status, line, says):
  verdict, result = judge(status, line, says)
  if verdict == TRACEBACK:
    raise result.exception
  assert verdict == REFUSED, result.output


def test_the_tables_hold_inputs_of_all_commands():
  lines = [line for _, line, _ in all_rows()]
  assert len(lines) == len(set(lines)) >= 300
  first_words = {shlex.split(line)[0] for line in lines}
  commands = {command.name or command.callback.__name__ for command in app.registered_commands}
  assert commands | {group.name for group in app.registered_groups} <= first_words


# Runs each line as another user, who may neither read `secret` nor write in `locked`.
AS_NOBODY = """
import encodings.utf_8_sig, importlib, json, os, pkgutil, sys
import pandas, matplotlib.pyplot, maxtext_sparse
from tests.cli.bad_rows import run
for package in ("laws", "plots", "sweeps", "patching", "demo", "reports", "inspection", "plan", "weights"):
  folder = importlib.import_module(f"maxtext_sparse.{package}")
  for module in pkgutil.iter_modules(folder.__path__):
    importlib.import_module(f"maxtext_sparse.{package}.{module.name}")
os.setuid(65534)
os.chdir(sys.argv[1])
results = [run(line) for line in json.load(sys.stdin)]
print(json.dumps([[r.exit_code, r.stdout, r.stderr, repr(r.exception)] for r in results]))
"""
# Command line -> what the line must say.
FORBIDDEN = {
  "train secret.yml": "secret.yml: cannot read this config file (Permission denied)",
  "plan secret.yml": "secret.yml: cannot read this config file (Permission denied)",
  "launch command secret.yml": "secret.yml: cannot read this config file (Permission denied)",
  "train good.yml run_name=x base_output_directory=locked": "base_output_directory=locked: may not write in ",
  "train good.yml run_name=x base_output_directory=locked/a/b": "base_output_directory=locked/a/b: may not write in ",
  "train good.yml metrics_file=locked/metrics.jsonl": "metrics_file=locked/metrics.jsonl: may not write in ",
  "sweep make secret.yml --out out": "secret.yml: cannot read this sweep file (Permission denied)",
  "sweep make spec.yml --out locked/out": "--out=locked/out: may not write in ",
  "fit secret.csv": "secret.csv: not a readable CSV file (Permission denied)",
  "fit RUNS.csv --report locked/report": "--report=locked/report: may not write in ",
  "plan --steps 1000 --sparsity 0.5 --plot locked/plan.png": "--plot=locked/plan.png: cannot write this picture",
  "plot accuracy RUNS.csv --out locked/figures": "--out=locked/figures: cannot write (Permission denied)",
  "convert chinchilla.csv --source chinchilla --out locked/runs.csv": "--out=locked/runs.csv: cannot write",
  "demo --out locked/demo": "cannot write there (Permission denied), choose another folder",
  "patch check secret": "PATH=secret: ",
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_what_another_user_may_not_do_is_one_line(tmp_path):
  write_files(tmp_path)
  for name in ("secret", "locked"):
    (tmp_path / name).mkdir()
  for name, content in {"secret.yml": "steps: 5\n", "secret.csv": "run\n"}.items():
    (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / name).chmod(0o600)
  (tmp_path / "secret").chmod(0o700)
  for path in (tmp_path, *tmp_path.parents[:2]):  # pytest makes these for its own user alone
    path.chmod(0o755)
  before = contents(tmp_path)
  done = subprocess.run(
    [sys.executable, "-c", AS_NOBODY, str(tmp_path)],
    input=json.dumps(list(FORBIDDEN)),
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": str(REPO), "MPLCONFIGDIR": str(tmp_path.parent)},
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  for (line, says), (status, out, error, exception) in zip(FORBIDDEN.items(), json.loads(done.stdout)):
    assert (status, out, error.count("\n")) == (2, "", 1), (line, out, error, exception)
    assert says in error, (line, error)
  assert contents(tmp_path) == before
