"""`preflight --compare`: which preflight each side is, and what is made of both."""

import json
import os
import sys

import pytest
from typer.testing import CliRunner

from maxtext_sparse.cli import app
from maxtext_sparse.errors import ConfigError, RunError
from maxtext_sparse.preflight.side_by_side import figure, print_both, ratios, run_side, Side
from maxtext_sparse.terminal import console

TOPOLOGY = ("--topology=v5e-4",)
# What stands for the interpreter of another environment: it writes a preflight, or an error, and ends with a status.
STAND_IN = "#!/bin/sh\nprintf '%s' '{output}'\necho '{error}' >&2\nexit {status}\n"


def environment(folder, output="", error="", status=0) -> str:
  """A folder like a Python environment, whose python says what is given."""
  python = folder / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text(STAND_IN.format(output=output, error=error, status=status))
  python.chmod(0o755)
  return str(folder)


def content(**changes):
  step = {"argument_bytes": 100, "flops": 1e6, "collectives": {"all-reduce": {"count": 2, "bytes": 30}}}
  told = {"maxtext": "0.2.5", "topology": "v5e-4", "fits": True, "dense": step, "sparse": step}
  return told | {"pace": {"dense": 0.5, "mask": 0.0, "event": 0.1}} | changes


def test_the_keys_of_a_side_replace_those_of_both():
  command = Side.parse("b.yml sparsity=0.5").command(["a.yml", "sparsity=0.8", "steps=10"], TOPOLOGY)
  assert command[0] == sys.executable
  assert command[3:] == ["preflight", "a.yml", "b.yml", "steps=10", "sparsity=0.5", *TOPOLOGY, "--json"]


def test_a_folder_is_a_python_environment(tmp_path):
  folder = environment(tmp_path / "venv", output="{}")
  side = Side.parse(folder)
  assert side.command(["a.yml"], TOPOLOGY)[0] == os.path.join(folder, "bin", "python")
  assert side.arguments == ()


def test_a_folder_without_a_python_is_refused(tmp_path):
  with pytest.raises(ConfigError, match="has no bin/python, give a Python environment"):
    Side.parse(str(tmp_path))


def test_a_step_that_does_not_fit_still_tells_what_is_known(tmp_path):
  side = Side.parse(environment(tmp_path / "venv", output='{"fits": false}', status=1))
  lines: list[str] = []
  assert run_side(side, ["a.yml"], TOPOLOGY, lines.append) == {"fits": False}
  assert lines[0].startswith(f"{side.name}: done in")


@pytest.mark.parametrize(("status", "error"), [(2, ConfigError), (1, RunError)])
def test_a_side_that_fails_says_why_in_one_line(tmp_path, status, error):
  side = Side.parse(environment(tmp_path / "venv", error="maxtext-sparse: error: sparsity=2: must", status=status))
  with pytest.raises(error, match=r"^--compare .*venv: sparsity=2: must$"):
    run_side(side, ["a.yml"], TOPOLOGY, print)


def test_ratios_are_of_the_second_over_the_first():
  first = content()
  second = content(dense=first["dense"] | {"flops": 3e6}, pace={"dense": 0.25, "mask": 0.1, "event": 0.1})
  found = ratios(first, second)
  assert (found["flops, dense"], found["flops, sparse"], found["dense step, ms"]) == (3.0, 1.0, 0.5)
  # Nothing is known of the run, and a ratio over 0 has no meaning.
  assert found["hours of the run"] is None and found["gradient mask, ms"] is None


def test_collectives_count_by_their_bytes_and_times_in_milliseconds():
  assert figure(content(), "collective bytes of a dense step") == 30
  assert figure(content(), "dense step, ms") == 500


def test_both_sides_are_printed_with_their_ratio(capsys):
  sides = [Side("old", "python"), Side("new", "python")]
  second = content(maxtext="0.2.6", fits=False) | {"dense": {"argument_bytes": 150}}
  print_both(sides, [content(), second], console())
  printed = capsys.readouterr().out
  assert "A: old, MaxText 0.2.5, v5e-4\nB: new, MaxText 0.2.6, v5e-4, does not fit into memory" in printed
  row = next(line for line in printed.splitlines() if line.startswith(" argument bytes, dense"))
  assert row.split()[-3:] == ["100", "150", "1.5000"]


@pytest.mark.parametrize(("fits", "status"), [(True, 0), (False, 1)])
def test_the_command_gives_both_sides_and_their_ratios_as_json(tmp_path, fits, status):
  told = content(), content(dense={"argument_bytes": 150}, fits=fits)
  folders = [environment(tmp_path / name, output=json.dumps(side)) for name, side in zip(("old", "new"), told)]
  command = ["preflight", "a.yml", "--topology", "v5e-4", "--compare", *folders, "--json"]
  result = CliRunner().invoke(app, command)
  assert result.exit_code == status
  found = json.loads(result.stdout)
  assert (found["A"], found["B"]) == told
  assert found["ratios"]["argument bytes, dense"] == 1.5
