"""The files of launch/: the Dockerfile as text, the plain JobSet, xpk's environment. `test_image.py` does its steps."""

import os
from pathlib import Path
import re
import subprocess
import sys

import pytest
import yaml

from maxtext_sparse.cluster.command import EXPORTS, read_arguments, training_command
from maxtext_sparse.cluster.jobset import parse_jobset, pod_of
from maxtext_sparse.cluster.tpu import family_of, tpu_types
from maxtext_sparse.cluster.workload import make_workload
from maxtext_sparse.cluster.xpk import Xpk
from tests.cluster.conftest import call, Pod, REPO
from tests.cluster.image import read_dockerfile
from tests.cluster.test_xpk import placement_of, RUN

LAUNCH = REPO / "launch"


@pytest.fixture(scope="module")
def instructions():
  """(instruction, arguments) of the Dockerfile."""
  return read_dockerfile()


def test_the_dockerfile_has_the_plugin_last_and_so_by_default(instructions):
  stages = [arguments.split(" AS ") for name, arguments in instructions if name == "FROM"]
  assert stages == [["${BASEIMAGE}", "package"], ["package", "patched"], ["package", "plugin"]]
  assert {name for name, _ in instructions} <= {"ARG", "FROM", "COPY", "RUN"}


def test_the_image_gets_what_building_the_package_needs_and_the_context_has_it(instructions):
  copied = {word for name, arguments in instructions if name == "COPY" for word in arguments.split()[:-1]}
  ignore = (LAUNCH / "Dockerfile.dockerignore").read_text(encoding="utf-8")
  allowed = {line.removeprefix("!") for line in ignore.splitlines() if line.startswith("!")}
  assert {path.rstrip("/") for path in copied} == allowed
  assert all((REPO / path).exists() for path in copied)
  assert {"pyproject.toml", "README.md", "maxtext_sparse/", "patches/"} <= copied


def test_the_image_keeps_its_own_versions(instructions):
  installs = [arguments for name, arguments in instructions if name == "RUN" and "pip install" in arguments]
  assert len(installs) == 1 and "pip list --format=freeze" in installs[0] and " -c " in installs[0]


def test_the_images_commands_are_commands_of_the_package(instructions):
  used = re.findall(
    r"maxtext-sparse ([a-z ]+)", " ; ".join(arguments for name, arguments in instructions if name == "RUN")
  )
  assert sorted(command.strip() for command in used) == ["doctor", "patch apply", "patch check"]
  for command in used:
    assert call(*command.split(), "--help")[0] == 0


def fill(variables):
  """launch/jobset.yaml as envsubst fills it."""
  text = (LAUNCH / "jobset.yaml").read_text(encoding="utf-8")
  document = text[text.index("apiVersion") :]
  assert set(re.findall(r"\$\{(\w+)\}", document)) == set(variables)
  assert all(f"${name}" in text.partition("envsubst '")[2].partition("'")[0] for name in variables)
  return re.sub(r"\$\{(\w+)\}", lambda match: str(variables[match[1]]), document)


@pytest.fixture
def filled():
  tpu_type = "v5litepod-16"
  return fill(
    {
      "WORKLOAD": "s80",
      "IMAGE": "gcr.io/my-project/maxtext-sparse:1",
      "NUM_SLICES": 2,
      "MAX_RESTARTS": 10,
      "ACCELERATOR": family_of(tpu_type).accelerator,
      "TOPOLOGY": "4x4",
      "HOSTS": tpu_types()[tpu_type] // 4,
      "CHIPS_PER_HOST": 4,
      "COMMAND": training_command(read_arguments([*RUN, "tokenizer_path='it''s $HOME # $$'"]).words(), EXPORTS),
    }
  )


def test_the_plain_jobset_has_what_its_schema_requires(filled):
  assert parse_jobset(filled)["metadata"]["name"] == "s80"


def test_the_plain_jobset_asks_for_what_xpk_asks_for(filled, xpk_path):
  workload = make_workload(read_arguments(RUN), placement_of(num_slices=2), "s80")
  theirs, ours = parse_jobset(Xpk(xpk_path).dry_run(workload)), yaml.safe_load(filled)
  job = lambda jobset: jobset["spec"]["replicatedJobs"][0]
  assert ours["metadata"]["annotations"] == theirs["metadata"]["annotations"]
  assert ours["spec"]["failurePolicy"] == theirs["spec"]["failurePolicy"]
  assert ours["spec"]["ttlSecondsAfterFinished"] == theirs["spec"]["ttlSecondsAfterFinished"]
  assert job(ours)["replicas"] == job(theirs)["replicas"]
  for field in ("parallelism", "completions", "backoffLimit"):
    assert job(ours)["template"]["spec"][field] == job(theirs)["template"]["spec"][field]
  exits = job(ours)["template"]["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
  assert (exits["operator"], exits["values"]) == ("In", [2])
  fields = ("restartPolicy", "nodeSelector", "tolerations", "hostNetwork", "dnsPolicy", "terminationGracePeriodSeconds")
  assert {name: pod_of(ours)[name] for name in fields} == {name: pod_of(theirs)[name] for name in fields}
  ours, theirs = (pod_of(jobset)["containers"][0] for jobset in (ours, theirs))
  assert {name: ours[name] for name in ("name", "image", "resources", "securityContext")} == {
    name: theirs[name] for name in ("name", "image", "resources", "securityContext")
  }


def test_the_plain_jobset_runs_the_command(filled, tmp_path):
  pod = Pod(yaml.safe_load(filled), tmp_path)
  assert pod.run() == 0
  assert pod.seen[0] == ["-m", "maxtext_sparse.train", "base.yml", *RUN, "tokenizer_path='it''s $HOME # $$'"]


def test_launch_command_prints_it_without_xpk(filled):
  status, out, _ = call("launch", "command", *RUN, "tokenizer_path='it''s $HOME # $$'")
  assert status == 0 and out.count("\n") == 1 and out.strip() in filled


def test_the_bootstrap_pins_everything_and_is_a_shell_script():
  pins = (LAUNCH / "constraints" / "xpk.txt").read_text(encoding="utf-8")
  lines = [line for line in pins.splitlines() if not line.startswith("#")]
  assert "xpk==1.16.0" in lines and all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in lines)
  assert "xpk==1.16.0" in (LAUNCH / "xpk.sh").read_text(encoding="utf-8")
  assert subprocess.run(["bash", "-n", LAUNCH / "xpk.sh"], check=False).returncode == 0


def test_xpk_runs_without_the_variables_of_this_environment(xpk_path, monkeypatch, tmp_path):
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
  (tmp_path / "home").mkdir(mode=0o500)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  workload = make_workload(read_arguments(RUN), placement_of())
  assert parse_jobset(Xpk(xpk_path).dry_run(workload)) and not list(Path(tmp_path / "home").iterdir())
