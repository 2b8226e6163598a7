"""A sweep of six runs on a cluster: submitted with interruptions, executed pod by pod, collected from its bucket.

The workloads are those that the real xpk makes. Each trains with MaxText's own train loop, and the sweep must end as the
same sweep does that is trained on this machine without a cluster.
"""

import json
from pathlib import Path
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import yaml

from maxtext_sparse.runs.metrics import once_per_step, read_rows, train_rows
from maxtext_sparse.sweeps.branch import branch
from maxtext_sparse.sweeps.make import make
from tests.cluster.conftest import flags
from tests.cluster.jobset_runner import JobSetRunner, kill_pod, variables
from tests.cluster.stand_in import Cluster, KILL_CALLER, KILL_XPK
from tests.faults import bucket
from tests.faults.bucket import port
from tests.hooks.conftest import text_data, worker
from tests.hooks.harness import cache_directory, environment, TINY_MODEL

__all__ = ["port", "text_data", "worker"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # MaxText starts sixteen times

# The pods train on a TPU, and with checkpoints.
_OF_THE_MACHINE = {"hardware": "cpu", "skip_jax_distributed_system": True}
_LEFT_OUT = (*_OF_THE_MACHINE, "enable_checkpointing", "dataset_type")
LENGTHS = {
  "steps": 24,
  "per_device_batch_size": 8,
  "eval_interval": 8,
  "eval_steps": 2,
  "checkpoint_period": 6,
  "async_checkpointing": False,
  "log_period": 6,
}
# The trunk trains steps 0 to 7, and the branches start from its checkpoint after step 6.
SPEC = {
  "name": "study",
  "base": "tiny.yml",
  "trunk": True,
  "set": {"gmp_start_step": 7, "gmp_end_step": 17, "gmp_pruning_frequency": 2},
  "axes": {"sparsity": [0.0, 0.5, 0.6, 0.7, 0.8, 0.9]},
}
ONE_HOST = {"tpu-type": "v6e-4"}
COMMAND = [sys.executable, "-m", "maxtext_sparse"]


@pytest.fixture(scope="module")
def make_sweep(tmp_path_factory, text_data):
  """Makes the sweep, with its output in the folder or in a bucket."""
  folder = tmp_path_factory.mktemp("study")
  model = {key: value for key, value in TINY_MODEL.items() if key not in _LEFT_OUT}
  text = text_data | {"train_data_columns": ["text"], "eval_data_columns": ["text"]}
  (folder / "tiny.yml").write_text(yaml.safe_dump(model | text | LENGTHS | {"jax_cache_dir": cache_directory()}))

  def write(output_directory):
    (folder / "study.yml").write_text(yaml.safe_dump(SPEC | {"output_directory": output_directory}))
    return make(str(folder / "study.yml"), str(folder / output_directory.partition("://")[0]))

  return write


@pytest.fixture(scope="module")
def local(make_sweep, worker):
  """The same sweep, trained without a cluster: its manifest."""
  manifest = make_sweep("out")
  for run in manifest.runs:
    branch(manifest, run)
    folder = Path(manifest.run_directory(run))
    folder.mkdir(parents=True, exist_ok=True)
    own = {"base_output_directory": manifest.output_path, "metrics_file": folder / "metrics.jsonl"} | _OF_THE_MACHINE
    reply = worker.ask("train", [manifest.config_path(run), *(f"{key}={value}" for key, value in own.items())])
    assert "error" not in reply, reply
  return manifest


@pytest.fixture(scope="module")
def sweep(make_sweep, port, tmp_path_factory, xpk_path):
  """The sweep in a bucket, and an empty cluster."""
  folder = tmp_path_factory.mktemp("cluster")
  return SubmittedSweep(
    make_sweep(f"{bucket.URL}/study"), Cluster(folder / "xpk", xpk_path, with_jobsets=True), folder, port
  )


class SubmittedSweep:
  """The sweep as its user sees it: a folder, commands, and a cluster that executes what it is given.

  Attributes:
    executed: name of a workload -> the runner of each of its executions.
  """

  def __init__(self, manifest, cluster, folder, port):
    self.manifest, self.cluster, self._folder, self.port = manifest, cluster, folder, port
    self.executed: dict[str, list[JobSetRunner]] = {}

  def start(self, *words):
    command = [*COMMAND, "sweep", words[0], self.manifest.directory, *words[1:]]
    env = environment() | bucket.variables(self.port) | {"XPK": str(self.cluster.xpk)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

  def call(self, *words):
    process = self.start(*words)
    out, error = process.communicate(timeout=300)
    return SimpleNamespace(status=process.returncode, out=out, error=error)

  def submit(self, *words, **changes):
    return self.call("submit", *flags(**ONE_HOST, **changes), *words)

  def states(self, *words, **changes):
    """Calls `sweep submit`, which must work; run -> state."""
    done = self.submit("--json", *words, **changes)
    assert done.status == 0, done.error
    return {row["run"]: row["state"] for row in json.loads(done.out)["runs"]}

  def execute(self, *names, **how):
    """Executes workloads to their end, one after the other; how each ended."""
    ends = []
    for name in names:
      runners = self.executed.setdefault(name, [])
      runners.append(
        JobSetRunner(self.cluster.jobset(name), self._folder / f"{name}-{len(runners)}", variables(self.port))
      )
      ends.append(runners[-1].run(**how))
    return ends

  def saved(self, run):
    return bucket.saved_steps(self.port, f"study/{run}")

  def losses(self, run):
    """Step -> loss and number of weights left, from what the run uploaded."""
    names = sorted(bucket.objects(self.port, f"study/{run}/metrics/"))
    rows = [json.loads(line) for name in names for line in bucket.content(self.port, name).splitlines()]
    return losses_of(rows)


def losses_of(rows):
  rows = train_rows(once_per_step(rows))
  return {row["step"]: (row["learning/loss"], row.get("pruning/nonzero_prunable")) for row in rows}


def refused_until_told(sweep, run):
  """After a submission that never reported back, nothing is submitted before the user says so."""
  before = sweep.cluster.accepted
  done = sweep.submit()
  assert done.status == 2 and f"--resubmit {run}" in done.error and done.error.count("\n") == 1
  assert sweep.cluster.accepted == before


def submit_trunk_and_dense_run(sweep):
  """xpk is killed before the cluster has the dense run, then after the cluster has the trunk."""
  sweep.cluster.behave(before=KILL_XPK)
  assert sweep.submit().status == 1 and sweep.cluster.accepted == []
  refused_until_told(sweep, "study-s0")
  sweep.cluster.behave(after=f"[ $name = study-trunk ] && {KILL_XPK}")
  assert sweep.submit("--resubmit", "study-s0").status == 1
  assert sweep.cluster.accepted == ["study-s0", "study-trunk"]
  sweep.cluster.behave()
  refused_until_told(sweep, "study-trunk")
  states = sweep.states("--resubmit", "study-trunk")
  assert (states.pop("study-s0"), states.pop("study-trunk")) == ("already submitted", "submitted")
  assert set(states.values()) == {"waiting"} and len(states) == 5
  assert sweep.cluster.accepted == ["study-s0", "study-trunk"]


def submit_branches(sweep):
  """The command is killed while it copies a checkpoint, and after the cluster has the second branch."""
  process = sweep.start("submit", *flags(**ONE_HOST))
  wait_for(lambda: bucket.objects(sweep.port, "study/study-s50/checkpoints/"), process)
  process.kill()
  process.communicate()
  assert sweep.saved("study-s50") == []
  sweep.cluster.behave(after=f"[ $name = study-s60 ] && {KILL_CALLER}")
  some = ("--only", "study-s[567]0")
  assert sweep.submit(*some).status == -signal.SIGKILL
  assert sweep.cluster.accepted[2:] == ["study-s50", "study-s60"]
  sweep.cluster.behave()
  refused_until_told(sweep, "study-s60")
  assert sorted(sweep.states("--resubmit", "study-s60", *some).values()) == [
    "already submitted",
    "submitted",
    "submitted",
  ]
  assert set(sweep.states("--only", "study-s[89]0", max_restarts=0).values()) == {"submitted"}
  assert sweep.cluster.accepted[2:] == [f"study-s{tens}0" for tens in (5, 6, 7, 8, 9)]


def wait_for(condition, process):
  while not condition():
    assert process.poll() is None, process.communicate()
    time.sleep(0.005)


def lose_a_host(sweep):
  """One run is preempted and resumes. Another is lost and may not restart; deleted and submitted again, it resumes."""

  def when_saved(run, harm):
    return lambda pods: 12 in sweep.saved(run) and (harm(pods[0]), True)[1]

  preempted = when_saved("study-s70", lambda pod: pod.terminate())
  assert sweep.execute("study-s70", disturb=preempted) == ["Completed"]
  assert sweep.execute("study-s80", disturb=when_saved("study-s80", kill_pod)) == ["Failed"]
  sweep.cluster.delete("study-s80")
  assert sweep.states("--resubmit", "study-s80", max_restarts=0)["study-s80"] == "submitted"
  assert sweep.execute("study-s80") == ["Completed"]


def test_each_run_is_trained_once_and_ends_like_a_local_one(sweep, local):
  submit_trunk_and_dense_run(sweep)
  assert sweep.execute("study-trunk", "study-s0") == ["Completed", "Completed"]
  submit_branches(sweep)
  assert sweep.execute("study-s50", "study-s60", "study-s90") == ["Completed"] * 3
  lose_a_host(sweep)
  assert set(sweep.states().values()) == {"finished"}
  attempts = {name: [len(runner.attempts) for runner in runners] for name, runners in sweep.executed.items()}
  assert attempts.pop("study-s70") == [2] and attempts.pop("study-s80") == [1, 1]
  assert set(map(tuple, attempts.values())) == {(1,)} and len(attempts) == 5
  check_losses(sweep, local)
  check_tables(sweep, local)


def check_losses(sweep, local):
  """Each step of each run has the loss of the local run, bit for bit. A kill takes rows that were not uploaded yet."""
  for run in local.runs:
    found, expected = sweep.losses(run.name), losses_of(read_rows(f"{local.run_directory(run)}/metrics.jsonl"))
    assert sorted(expected) == list(range(run.steps)) and found.items() <= expected.items(), run.name
    if run.name != "study-s80":
      assert found == expected, run.name


def check_tables(sweep, local):
  """`sweep collect` makes the same table of both."""
  here = subprocess.run([*COMMAND, "sweep", "collect", local.directory, "--json"], stdout=subprocess.PIPE, check=True)
  done = sweep.call("collect", "--json")
  assert done.status == 0, done.error
  rows = json.loads(done.out)["runs"]
  assert rows == json.loads(here.stdout)["runs"] and len(rows) == 6
