"""Runs whose output is in a bucket: equal to local runs, resumed after a kill, and unharmed by a bad connection."""

import json
import os
import subprocess
import sys
import threading

import pytest

from maxtext_sparse.runs.metrics import once_per_step, read_rows, train_rows
from tests.faults import bucket
from tests.faults.bucket import port, Proxy, URL
from tests.hooks.harness import arguments, assert_same_leaves, environment, Result

__all__ = ["port"]

pytestmark = pytest.mark.slow

SAVING = {"checkpoint_period": 10}
RUNS = f"{URL}/runs"


@pytest.fixture(scope="module")
def settings(settings):
  """A run of 60 steps, 80 % sparse in 15 events, saved every 10 steps."""
  return settings | SAVING


@pytest.fixture(scope="module")
def whole(nursery, out, settings):
  """The undisturbed run on the local disk."""
  return nursery.train(out, "whole_local", **settings)


def start(nursery, out, name, port, settings, **overrides):
  in_bucket = {"base_output_directory": RUNS}
  return nursery.start(out, name, extra=bucket.variables(port), **settings, **in_bucket, **overrides)


def comparable(event):
  return {key: value for key, value in event.items() if key != "threshold"}


def assert_equal_run(out, name, port, whole):
  """Weights, optimizer state and records; a kill may take the threshold of one event."""
  assert_same_leaves(whole, Result(out, name))
  expected = [comparable(event) for event in whole.event_files()]
  assert [comparable(event) for event in bucket.events(port, f"runs/{name}")] == expected


def test_a_run_in_a_bucket_ends_like_a_local_one(nursery, out, port, settings, whole):
  child = start(nursery, out, "quiet", port, settings)
  assert child.wait() == 0, child.log.read_text()[-3000:]
  assert_equal_run(out, "quiet", port, whole)
  assert bucket.saved_steps(port, "runs/quiet") == [0, 10, 20, 30, 40, 50, 59]


@pytest.mark.parametrize("where", ["in a save", "after a save"])
def test_a_run_killed_in_a_bucket_resumes_bit_identical(nursery, out, port, settings, whole, where):
  name = where.replace(" ", "_")
  marks = {
    "in a save": lambda: any("checkpoints/20" in n for n in bucket.objects(port, f"runs/{name}/checkpoints/20")),
    "after a save": lambda: 20 in bucket.saved_steps(port, f"runs/{name}"),
  }
  child = start(nursery, out, name, port, settings)
  assert child.wait_until(marks[where]), child.log.read_text()[-3000:]
  child.kill()
  child = start(nursery, out, name, port, settings)
  assert child.wait() == 0, child.log.read_text()[-3000:]
  assert_equal_run(out, name, port, whole)
  steps = [row["step"] for row in train_rows(once_per_step(read_rows(str(out / f"{name}.jsonl"))))]
  assert steps == sorted(set(steps))


def test_a_slow_and_faulty_connection_loses_nothing(nursery, out, port, settings, whole):
  proxy = Proxy(port, delay=0.05, fault=bucket.one_in_twenty)
  try:
    child = start(nursery, out, "faulty", proxy.port, settings)
    assert child.wait(timeout=600) == 0, child.log.read_text()[-3000:]
  finally:
    proxy.close()
  assert proxy.num_faults >= 20
  assert_equal_run(out, "faulty", port, whole)


def command(port, *arguments):
  variables = environment() | bucket.variables(port)
  return subprocess.run(
    [sys.executable, *arguments], env=variables, capture_output=True, text=True, check=False, timeout=800
  )


WRITE_PLAN = """
import dataclasses, sys
from maxtext_sparse.errors import one_line_errors
from maxtext_sparse.maxtext_errors import in_one_line
from maxtext_sparse.runs.record import Plan, RunRecord
from maxtext_sparse.schedule import Schedule
with one_line_errors(), in_one_line():
  RunRecord(sys.argv[1]).write_plan(Plan(Schedule(int(sys.argv[2]), (), (), "hold"), ("a",), 10))
"""


RECORD = "records/{name}/sparsity/schedule.json"


def write_plan(port, name, num_steps):
  """The command that writes a run's schedule of so many steps."""
  given = [sys.executable, "-c", WRITE_PLAN, f"{URL}/records/{name}", str(num_steps)]
  return {"args": given, "env": environment() | bucket.variables(port), "stderr": subprocess.PIPE, "text": True}


def recorded_steps(port, name):
  return json.loads(bucket.content(port, RECORD.format(name=name)))["schedule"]["steps"]


@pytest.mark.parametrize("answer", ["403", "503"])
def test_a_record_whose_write_fails_keeps_its_old_text(port, answer):
  """There is no rename in a bucket. An upload that fails leaves the old object. The client repeats it a few times."""
  name = f"refused{answer}"
  assert subprocess.run(**write_plan(port, name, 100), check=False).returncode == 0
  proxy = Proxy(port, fault=lambda number, method, path: answer if method in ("POST", "PUT") else "")
  try:
    done = subprocess.run(**write_plan(proxy.port, name, 200), check=False)
  finally:
    proxy.close()
  assert done.returncode == 1 and proxy.num_faults <= 6
  (line,) = done.stderr.splitlines()
  assert line.startswith(f"maxtext-sparse: error: {URL}/{RECORD.format(name=name)}: cannot write (")
  assert recorded_steps(port, name) == 100


class HeldUploads(Proxy):
  """Holds the content of an upload, before or after the bucket gets it, until `go_on` is set."""

  def __init__(self, target, is_through):
    self._is_through = is_through
    self.held, self.go_on = threading.Event(), threading.Event()
    super().__init__(target)

  def forward(self, method, path, headers, body):
    if "upload_id=" not in path:
      return super().forward(method, path, headers, body)
    answer = super().forward(method, path, headers, body) if self._is_through else (503, {}, b"")
    self.held.set()
    self.go_on.wait(60)
    return answer


@pytest.mark.parametrize(("is_through", "found"), [(False, 100), (True, 200)], ids=["before", "after"])
def test_a_writer_that_is_killed_leaves_the_old_text_or_the_new(port, is_through, found):
  """kill -9 before the bucket has the whole upload, and after it but before the answer."""
  name = f"killed{found}"
  assert subprocess.run(**write_plan(port, name, 100), check=False).returncode == 0
  proxy = HeldUploads(port, is_through)
  try:
    writer = subprocess.Popen(**write_plan(proxy.port, name, 200))
    assert proxy.held.wait(120), "nothing was uploaded"
    writer.kill()
    writer.communicate()
    proxy.go_on.set()
  finally:
    proxy.close()
  assert recorded_steps(port, name) == found
  assert set(bucket.objects(port, f"records/{name}/")) == {RECORD.format(name=name)}


def test_a_checkpoint_in_a_bucket_is_exported_verified_and_inspected(nursery, out, port, settings, tmp_path):
  child = start(nursery, out, "exported", port, settings)
  assert child.wait() == 0, child.log.read_text()[-3000:]
  checkpoint, folder = f"{RUNS}/exported", str(tmp_path / "model")
  cli = ("-m", "maxtext_sparse")
  exported = command(port, *cli, "export", checkpoint, folder)
  assert exported.returncode == 0, exported.stderr
  certificate = json.loads((tmp_path / "model" / "sparsity.json").read_text())
  last = bucket.events(port, "runs/exported")[-1]
  assert certificate["nonzero"] == last["nonzero_prunable"], sorted(certificate)
  assert command(port, *cli, "verify", folder).returncode == 0
  inspected = command(port, *cli, "inspect", checkpoint, "--json")
  assert inspected.returncode == 0, inspected.stderr


@pytest.mark.parametrize(
  ("answer", "spared"), [("404", ()), ("403", ("GET",)), ("503", ())], ids=["gone", "not writable", "out of order"]
)
def test_a_bucket_that_refuses_is_one_line_after_a_few_requests(out, port, settings, answer, spared):
  proxy = Proxy(port, fault=lambda number, method, path: "" if method in spared else answer)
  try:
    given = arguments(out, "refused", **(settings | {"base_output_directory": RUNS, "per_device_batch_size": 8}))
    done = command(proxy.port, "-m", "maxtext_sparse", "train", *given)
  finally:
    proxy.close()
  assert done.returncode not in (0, 42) and proxy.num_faults <= 30
  (line,) = [line for line in done.stderr.splitlines() if line.startswith("maxtext-sparse: error:")]
  assert "bucket" in line
  assert "Traceback" not in done.stderr, os.linesep.join(done.stderr.splitlines()[-5:])
