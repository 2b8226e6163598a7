"""The JobSets of `launch xpk` and `launch/jobset.yaml`, executed: hosts, slices, a bucket, lost hosts, hopeless runs."""

import itertools
import json
import re
import shutil
import subprocess

import pytest
import yaml

from maxtext_sparse.runs.metrics import once_per_step, read_rows, train_rows
from tests.cluster.conftest import call, flags, REPO
from tests.cluster.jobset_runner import JobSetRunner, kill_pod, variables
from tests.faults import bucket
from tests.faults.bucket import port
from tests.hooks.conftest import text_settings
from tests.hooks.harness import arguments

__all__ = ["port"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # hosts wait five minutes for each other, twice

RUN = {
  "sparsity": 0.8,
  "steps": 24,
  "gmp_start_step": 4,
  "gmp_end_step": 18,
  "gmp_pruning_frequency": 2,
  "checkpoint_period": 6,
  "enable_checkpointing": True,
  "async_checkpointing": False,
  "per_device_batch_size": 4,
}
OF_THE_MACHINE = ("hardware", "skip_jax_distributed_system")


@pytest.fixture(scope="module")
def short_text(tmp_path_factory):
  """Text for about a hundred steps."""
  return text_settings(tmp_path_factory.mktemp("corpus") / "corpus", train_chars=40_000) | {"num_epoch": 1}


def words(tmp_path, name, **overrides):
  """The arguments of a run in the bucket."""
  given = arguments(tmp_path, name, **(RUN | {"base_output_directory": f"{bucket.URL}/runs"} | overrides))
  return [word for word in given if word.partition("=")[0] not in OF_THE_MACHINE]


@pytest.fixture
def start(tmp_path, port):
  """Makes the runner that executes a JobSet."""
  numbers = itertools.count()
  return lambda jobset: JobSetRunner(jobset, tmp_path / f"pods{next(numbers)}", variables(port))


@pytest.fixture
def launch(tmp_path, start, xpk_path):
  """Makes the manifest of a run on two hosts with the shipped command, and its runner."""

  def make(name, max_restarts=3, **overrides):
    status, output, errors = call(
      *("launch", "xpk", "base.yml", *words(tmp_path, name, **overrides), "--dry-run", "--json"),
      *flags(**{"tpu-type": "v5litepod-8", "max-restarts": max_restarts}),
      XPK=xpk_path,
    )
    assert status == 0, errors
    return start(json.loads(output)["manifest"])

  return make


@pytest.fixture
def apply(tmp_path, start):
  """Fills in launch/jobset.yaml for two slices of two hosts, as the comment at its top says, and makes its runner."""
  envsubst = shutil.which("envsubst")
  if envsubst is None:
    pytest.skip("envsubst is not here; it comes with gettext")
  text = (REPO / "launch" / "jobset.yaml").read_text(encoding="utf-8")
  (names,) = re.findall(r"envsubst '(.*)'", text)

  def make(name, **overrides):
    status, command, errors = call("launch", "command", "base.yml", *words(tmp_path, name, **overrides))
    assert status == 0, errors
    env = {"WORKLOAD": name, "IMAGE": "image", "NUM_SLICES": "2", "HOSTS": "2", "MAX_RESTARTS": "2"}
    env |= {"ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "2x4", "CHIPS_PER_HOST": "4", "COMMAND": command.rstrip()}
    filled = subprocess.run([envsubst, names], input=text, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return start(yaml.safe_load(filled.stdout))

  return make


def losses(tmp_path, name):
  rows = train_rows(once_per_step(read_rows(str(tmp_path / f"{name}.jsonl"))))
  return {row["step"]: (row["learning/loss"], row["pruning/nonzero_prunable"]) for row in rows}


def when_saved(port, name, step, harm):
  """Does harm to the second pod once a checkpoint is complete."""

  def disturb(pods):
    if step not in bucket.saved_steps(port, f"runs/{name}"):
      return False
    harm(pods[1])
    return True

  return disturb


def test_two_hosts_run_to_the_end_and_a_lost_host_changes_nothing(launch, port, tmp_path):
  quiet = launch("quiet")
  assert quiet.num_pods == 2
  assert quiet.run() == "Completed", quiet.log(0, 0)[-3000:]
  expected = bucket.events(port, "runs/quiet")
  assert len(expected) == 8
  # A preempted host gets SIGTERM and saves. A host that is lost gets nothing.
  for name, harm in (("preempted", lambda pod: pod.terminate()), ("lost", kill_pod)):
    runner = launch(name)
    assert runner.run(when_saved(port, name, 6, harm)) == "Completed", runner.log(runner.num_restarts, 0)[-3000:]
    assert runner.num_restarts == 1, runner.attempts
    known = lambda event: {key: value for key, value in event.items() if key != "threshold"}
    assert [known(e) for e in bucket.events(port, f"runs/{name}")] == [known(e) for e in expected]
    found = losses(tmp_path, name)
    # A kill takes the rows of two steps at most.
    assert len(found) >= RUN["steps"] - 2 and found.items() <= losses(tmp_path, "quiet").items()


def test_two_slices_of_two_hosts_resume_after_one_host_is_lost(apply, port, tmp_path):
  """The JobSet without xpk."""
  quiet, lost = (apply(name, per_device_batch_size=2) for name in ("four", "three"))
  assert quiet.num_pods == 4
  assert quiet.run() == "Completed", quiet.log(0, 0)[-3000:]
  assert lost.run(when_saved(port, "three", 6, kill_pod)) == "Completed", lost.log(lost.num_restarts, 0)[-3000:]
  assert quiet.num_restarts == 0 and lost.num_restarts == 1, lost.attempts
  found, expected = losses(tmp_path, "three"), losses(tmp_path, "four")
  assert len(expected) == RUN["steps"] and len(found) >= RUN["steps"] - 2 and found.items() <= expected.items()
  assert [e["nonzero_prunable"] for e in bucket.events(port, "runs/three")] == [
    e["nonzero_prunable"] for e in bucket.events(port, "runs/four")
  ]


def test_a_config_that_cannot_work_fails_at_once(launch):
  runner = launch("impossible", prune_include="[no_such_matrix]")
  assert runner.run() == "Failed"
  assert runner.num_restarts == 0 and 2 in runner.attempts[0], runner.attempts
  assert "no_such_matrix" in runner.log(0, 0)


def test_data_that_runs_out_restarts_a_bounded_number_of_times(launch, short_text):
  """The host that notices ends with one line. jax waits five minutes for the other one, and then both end with 134."""
  runner = launch("short", max_restarts=1, steps=400, gmp_end_step=380, checkpoint_period=50, **short_text)
  assert runner.run() == "Failed"
  assert runner.num_restarts == 1
  assert all(status != 0 for statuses in runner.attempts for status in statuses), runner.attempts
  assert "give it more data" in runner.log(0, 0)
