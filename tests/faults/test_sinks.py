"""Sinks of metrics and profiles beside a run: complete in a bucket and offline, and without influence on the weights."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from maxtext_sparse.runs.metrics import eval_rows, once_per_step, parse_rows, read_rows, train_rows
from tests.faults import bucket
from tests.faults.bucket import port, URL
from tests.faults.harness import saved_steps
from tests.hooks.harness import arguments, assert_same_leaves, environment, event_scalars, Result

__all__ = ["port"]

pytestmark = pytest.mark.slow

RUNS = f"{URL}/runs"
NAMES = {
  *("pruning/prunable", "pruning/nonzero_prunable", "pruning/density", "pruning/target_density", "pruning/threshold"),
  *("pruning/average_params", "pruning/effective_flops", "pruning/min_matrix_density"),
}
# Longer evals than the number of steps before them.
EVALUATED = {"eval_interval": 25, "eval_steps": 40}
IN_BUCKET = {"base_output_directory": RUNS, "enable_tensorboard": True, "gcs_metrics": True, "log_period": 7}
# Requests to Google end at a port of this machine that nobody listens to.
NO_GOOGLE = {"https_proxy": "http://localhost:9", "no_proxy": "localhost"}


@pytest.fixture(scope="module")
def evaluated(settings):
  """A run of 60 steps, 80 % sparse in 15 events, saved every 10 steps, evaluated after steps 0, 25, 50 and 59."""
  return settings | EVALUATED | {"checkpoint_period": 10}


def local_rows(out, name):
  return read_rows(str(out / f"{name}.jsonl"))


def uploaded(port, name):
  names = sorted(bucket.objects(port, f"runs/{name}/metrics/"))
  return once_per_step(row for file in names for row in parse_rows(bucket.content(port, file), file))


def events(port, name):
  """(tag, step) -> value of all event files of a run in the bucket."""
  files = [file for file in sorted(bucket.objects(port, f"runs/{name}/tensorboard/")) if "tfevents" in file]
  return {(tag, step): value for file in files for tag, step, value in event_scalars(bucket.content(port, file))}


def assert_has_all_scalars(found, rows):
  """Every `pruning/` scalar of every train row, rounded to float32, and the eval losses; nothing at another step."""
  expected = {(name, row["step"]): row[name] for row in train_rows(rows) for name in NAMES}
  expected |= {("eval/avg_loss", row["step"]): row["eval/avg_loss"] for row in eval_rows(rows)}
  assert {key for key in found if key[0] in {*NAMES, "eval/avg_loss"}} == expected.keys()
  for key, value in expected.items():
    assert np.float32(found[key]) == np.float32(value), key


def complete(child):
  assert child.wait() == 0, child.log.read_text()[-3000:]
  return child.log.read_text()


def test_a_bucket_gets_every_event_and_every_row(nursery, out, port, whole, evaluated):
  complete(nursery.start(out, "sinks", extra=bucket.variables(port), **evaluated | IN_BUCKET))
  rows = local_rows(out, "sinks")
  assert [row["step"] for row in eval_rows(rows)] == [0, 25, 50, 59]
  assert_has_all_scalars(events(port, "sinks"), rows)
  assert uploaded(port, "sinks") == once_per_step(rows)
  assert_same_leaves(whole, Result(out, "sinks"))


def test_a_stopped_run_uploads_its_last_rows(nursery, out, port, whole, evaluated):
  settings = evaluated | IN_BUCKET | {"log_period": 1000}
  child = nursery.start(out, "stopped", call="main", extra=bucket.variables(port), **settings)
  assert child.wait_until(lambda: 20 in bucket.saved_steps(port, "runs/stopped")), child.log.read_text()[-3000:]
  child.terminate()
  assert child.wait() == 42, child.log.read_text()[-3000:]
  assert uploaded(port, "stopped") == once_per_step(local_rows(out, "stopped"))
  # MaxText stops before it writes the row of its last step.
  stop = local_rows(out, "stopped")[-1]["step"] + 1
  complete(nursery.start(out, "stopped", extra=bucket.variables(port), **settings))
  assert {row["step"] for row in train_rows(uploaded(port, "stopped"))} == set(range(60)) - {stop}
  assert uploaded(port, "stopped") == once_per_step(local_rows(out, "stopped"))
  assert_has_all_scalars(events(port, "stopped"), local_rows(out, "stopped"))
  assert_same_leaves(whole, Result(out, "stopped"))


def test_a_killed_run_loses_the_rows_of_one_period_at_most(nursery, out, port, whole, evaluated):
  settings = evaluated | IN_BUCKET
  child = nursery.start(out, "killed", extra=bucket.variables(port), **settings)
  assert child.wait_until(lambda: 20 in bucket.saved_steps(port, "runs/killed")), child.log.read_text()[-3000:]
  child.kill()
  last = bucket.saved_steps(port, "runs/killed")[-1]
  assert last < 59, "the run was over before it was killed"
  complete(nursery.start(out, "killed", extra=bucket.variables(port), **settings))
  steps = [row["step"] for row in train_rows(uploaded(port, "killed"))]
  lost = sorted(set(range(60)) - set(steps))
  assert steps == sorted(set(steps)) and len(lost) <= 7 and all(last - 7 < step <= last for step in lost), lost
  assert_same_leaves(whole, Result(out, "killed"))


PROFILED = {
  "profiler": "xplane",
  "skip_first_n_steps_for_profiler": 9,  # the steps 9 to 13, with the event of step 11
  "profiler_steps": 5,
  "profile_periodically_period": 30,
  "hide_profiler_step_metric": True,
  "enable_tensorboard": True,
}


def test_profiles_change_nothing(nursery, out, whole, settings):
  run = nursery.train(out, "profiled", **settings, **PROFILED)
  traces = list(run.folder.rglob("*.xplane.pb"))
  assert len(traces) == 2, traces
  assert_same_leaves(whole, run)
  assert {name for name in run.train_rows[-1] if name.startswith("pruning/")} == NAMES


def google_account(folder):
  """Variables with which Google's clients believe to be logged in. Their requests end on this machine."""
  account = folder / "account.json"
  token = {"client_id": "me", "client_secret": "mine", "refresh_token": "mine", "token_uri": "http://localhost:9/token"}
  account.write_text(json.dumps({"type": "authorized_user"} | token))
  return NO_GOOGLE | {"GOOGLE_APPLICATION_CREDENTIALS": str(account), "GOOGLE_CLOUD_PROJECT": "test"}


def test_goodput_changes_nothing_even_if_its_log_cannot_be_reached(nursery, out, tmp_path, whole, settings):
  goodput = {"enable_goodput_recording": True, "monitor_goodput": False}
  child = nursery.start(out, "goodput", extra=google_account(tmp_path), **settings, **goodput)
  complete(child)
  assert_same_leaves(whole, Result(out, "goodput"))


def test_decoupled_from_google_nothing_is_promised_and_nothing_is_written(out, tmp_path, settings):
  """In a process of its own, because MaxText reads the variable when it is imported."""
  given = settings | {"enable_tensorboard": True, "gcs_metrics": True, "log_period": 7, "enable_checkpointing": False}
  words = arguments(out, "decoupled", **given, per_device_batch_size=8)
  variables = environment() | {"DECOUPLE_GCLOUD": "TRUE"}
  command = [sys.executable, "-m", "maxtext_sparse", "train", "--no-progress", *words]
  done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=400, cwd=tmp_path)
  assert done.returncode == 0, done.stderr[-3000:]
  shown = done.stdout + done.stderr
  assert "completed step: 59" in shown
  assert "tensorboard --logdir" not in shown and "moved successfully" not in shown
  assert "gcs_metrics: nothing is uploaded, because DECOUPLE_GCLOUD=TRUE" in shown
  assert not list((out / "decoupled").rglob("*tfevents*")) and not list((out / "decoupled").rglob("metrics_step_*"))
  assert not list(tmp_path.iterdir())


def wandb_records(content):
  """The records of W&B's offline file: after a header of 7 bytes, blocks of 32,768 bytes with parts of records.

  A part is a checksum (4 bytes), a length (2), a kind (1), and content. Kinds: 1 whole, 2 first, 3 middle, 4 last.
  """
  from wandb.proto.wandb_internal_pb2 import Record

  position, parts = 7, b""
  while position + 7 <= len(content):
    left = 32_768 - position % 32_768
    if left < 7:
      position += left
      continue
    _, length, kind = struct.unpack("<IHB", content[position : position + 7])
    parts = (b"" if kind in (1, 2) else parts) + content[position + 7 : position + 7 + length]
    position += 7 + length
    if kind in (1, 4):
      yield Record.FromString(parts)


def logged_to_wandb(folder):
  """The config of an offline run, and step -> its metrics."""
  (file,) = folder.rglob("*.wandb")
  config, history = {}, {}
  name = lambda item: item.key or "/".join(item.nested_key)
  for record in wandb_records(file.read_bytes()):
    for item in [*record.run.config.update, *record.config.update]:
      config[name(item)] = json.loads(item.value_json)
    row = {name(item): json.loads(item.value_json) for item in record.history.item}
    if row:
      history[int(row["_step"])] = row
  return config, history


@pytest.fixture
def wandb():
  return pytest.importorskip("wandb", reason="needs the package wandb: pip install wandb")


def test_wandb_offline_has_the_config_and_every_scalar_of_every_step(nursery, out, tmp_path, whole, evaluated, wandb):
  given = evaluated | {"enable_wandb": True, "wandb_project_name": "sparse", "wandb_run_name": "mine"}
  variables = NO_GOOGLE | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
  complete(nursery.start(out, "wandb", extra=variables, **given))
  config, history = logged_to_wandb(tmp_path)
  found = {(name, step): value for step, row in history.items() for name, value in row.items()}
  assert_has_all_scalars(found, local_rows(out, "wandb"))
  keys = {"sparsity": 0.8, "gmp_start_step": 8, "run_name": "wandb", "base_emb_dim": 64, "pruning_scope": "global"}
  assert {key: config[key] for key in keys} == keys
  assert "hf_access_token" not in config
  assert_same_leaves(whole, Result(out, "wandb"))


def test_a_missing_wandb_is_one_line_before_anything_is_compiled(nursery, tmp_path, settings):
  try:
    import wandb  # noqa: F401

    pytest.skip("wandb is installed here")
  except ImportError:
    pass
  words = arguments(tmp_path, "missing", per_device_batch_size=8, **settings | {"enable_wandb": True})
  child = nursery.command("train", "--no-progress", *words)
  assert child.wait() == 2
  *_, line = child.log.read_text().splitlines()
  assert line == (
    "maxtext-sparse: error: enable_wandb=true: the package wandb is not installed, install it (pip install wandb)"
  )
  assert saved_steps(tmp_path, "missing") == []
