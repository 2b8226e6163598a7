"""`launch xpk` with the real xpk, offline: what arrives in the pod, and what is refused before xpk runs."""

import json
import signal
import time

from hypothesis import given, HealthCheck, Phase, settings
from hypothesis import strategies as st
import pytest
import yaml

from maxtext_sparse.arguments import parse_value
from maxtext_sparse.cluster.command import Arguments
from maxtext_sparse.cluster.jobset import check_manifest, pod_of
from maxtext_sparse.cluster.placement import Placement
from maxtext_sparse.cluster.quoting import to_text
from maxtext_sparse.cluster.workload import make_workload
from maxtext_sparse.cluster.xpk import Xpk
from maxtext_sparse.errors import RunError
from tests.cluster.conftest import call, flags, OPTIONS, Pod, REPO
from tests.cluster.test_command import NASTY

RUN = ["run_name=s80", "base_output_directory=gs://my-bucket/runs"]
ONE_LINE = [text for text in NASTY if "\n" not in text]


def placement_of(**changes):
  return Placement(**{name.replace("-", "_"): value for name, value in OPTIONS.items()} | changes)


def submission(words=(), **changes):
  return make_workload(Arguments("base.yml", {}, (*RUN, *words)), placement_of(**changes))


@pytest.fixture(scope="module")
def xpk(xpk_path):
  return Xpk(xpk_path)


@pytest.fixture
def pod(xpk, tmp_path):
  """Makes a pod from what xpk makes of a workload."""
  return lambda workload, **more: Pod(yaml.safe_load(xpk.dry_run(workload)), tmp_path, **more)


def test_nasty_overrides_and_variables_arrive_to_the_letter(pod):
  overrides = [f"key_{i}=" + json.dumps(text) for i, text in enumerate(ONE_LINE)]
  env = {f"VARIABLE_{i}": text for i, text in enumerate(ONE_LINE)} | {"HOME": "/h", "FLAGS": "--a=$(HOME) --b"}
  workload = submission(overrides, env=env)
  made = pod(workload)
  assert made.run() == 0
  arguments, environment = made.seen
  assert arguments == ["-m", "maxtext_sparse.train", "base.yml", *RUN, *overrides]
  assert {name: environment[name] for name in env} == env


@settings(max_examples=4, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0")), min_size=20))
def test_any_one_line_texts_arrive(xpk, tmp_path_factory, texts):
  env = {f"TEXT_{i}": text for i, text in enumerate(texts)}
  workload = submission([f"key={to_text(text)}" for text in texts], env=env)
  made = Pod(yaml.safe_load(xpk.dry_run(workload)), tmp_path_factory.mktemp("pod"))
  assert made.run() == 0
  arguments, environment = made.seen
  assert [parse_value(word.partition("=")[2]) for word in arguments[-len(texts) :]] == texts
  assert {name: environment[name] for name in env} == env


def test_the_environment_is_that_of_maxtexts_own_launcher(pod):
  made = pod(submission(env={"JAX_PLATFORMS": "cpu"}, libtpu_args="--xla_a=true --xla_b=1"))
  made.run()
  _, environment = made.seen
  assert environment["ENABLE_PJRT_COMPATIBILITY"] == "true" and environment["JAX_PLATFORMS"] == "cpu"
  assert environment["LIBTPU_INIT_ARGS"] == "--xla_a=true --xla_b=1"
  assert "export JAX_PLATFORMS=tpu,cpu ENABLE_PJRT_COMPATIBILITY=true" in submission().command


@pytest.mark.parametrize("status", [0, 1, 2, 42, 134])
def test_the_pod_ends_with_the_status_of_the_training(pod, status):
  assert pod(submission(), python=f"exit {status}").run() == status


def test_a_preempted_training_saves_and_the_pod_asks_for_a_restart(pod, tmp_path):
  saves = f"trap 'echo saved > {tmp_path}/saved; exit 0' TERM; touch {tmp_path}/up; while :; do sleep 1; done"
  process = pod(submission(), python=saves).start()
  while not (tmp_path / "up").exists():
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=30) == 143
  assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("base", [{}, {"docker_image": None, "base_docker_image": "maxtext_base_image"}])
def test_the_jobset_has_the_slices_priority_and_restarts_asked_for(xpk, base):
  workload = submission(tpu_type="v5p-128", num_slices=3, priority="very-high", max_restarts=7, **base)
  jobset = check_manifest(xpk.dry_run(workload), workload)
  pod = pod_of(jobset)
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5p-slice"
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4x4"
  assert pod["restartPolicy"] == "Never" and pod["priorityClassName"] == "very-high"
  assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 7 and jobset["spec"]["replicatedJobs"][0]["replicas"] == 3
  # What a process leaves that was killed, lost its peers (134) or was stopped early (1) restarts; a bad config does not.
  rule = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"][0]
  assert rule["onExitCodes"]["operator"] == "NotIn"
  restarting = rule["onExitCodes"]["values"]
  assert {1, 134, 137, 143} <= set(restarting) and not {0, 2} & set(restarting)


def test_a_manifest_that_is_not_what_was_asked_for_is_refused(xpk):
  workload = submission(env={"A": "1"})
  manifest = xpk.dry_run(workload)
  for old, new, field in [
    ("replicas: 1", "replicas: 2", "replicas"),
    ("tpu-v5-lite-podslice", "tpu-v6e-slice", "accelerator"),
    ("google.com/tpu: 4", "google.com/tpu: 1", "google.com/tpu"),
    ('value: "1"', 'value: "2"', "env A"),
    ("run_name=s80", "run_name=s81", "command"),
    ("kind: JobSet", "kind: Job", "JobSet"),
    ('value: "1"', 'value: "{"a"}"', "not valid YAML"),
  ]:
    assert old in manifest
    with pytest.raises(RunError, match=field):
      check_manifest(manifest.replace(old, new), workload)


def test_extra_flags_are_passed_through_and_xpks_refusal_is_one_line(xpk_path):
  launch = lambda *extra: call("launch", "xpk", *RUN, *flags(), "--dry-run", "--json", "--", *extra, XPK=xpk_path)
  status, out, _ = launch("--docker-name", "trainer", "--enable-debug-logs")
  assert status == 0 and pod_of(json.loads(out)["manifest"])["containers"][0]["name"] == "trainer"
  status, out, error = launch("--no-such-flag")
  assert status == 1 and out == "" and error.count("\n") == 1 and "unrecognized arguments: --no-such-flag" in error


def test_json_is_one_object_with_the_command_and_the_jobset(xpk_path):
  config = REPO / "configs" / "models" / "58m.yml"
  status, out, _ = call("launch", "xpk", config, *RUN, *flags(), "--dry-run", "--json", XPK=xpk_path)
  content = json.loads(out)
  assert status == 0 and out.count("\n") == 1
  assert (content["workload"], content["run_name"], content["submitted"]) == ("s80", "s80", False)
  assert content["manifest"]["kind"] == "JobSet"
  assert "base_emb_dim=512" in content["command"] and "vocab_size=32000" in content["command"]


@pytest.mark.parametrize(
  "changes, words, message",
  [
    ({"cluster": None, "zone": None}, [], "--cluster, --zone: missing"),
    ({"docker_image": None}, [], "--docker-image: missing"),
    ({"tpu_type": None}, [], "--tpu-type: missing"),
    ({"project": None}, [], "--project: missing"),
    ({"base_docker_image": "b"}, [], "--docker-image is given too"),
    ({"cluster": "My_Cluster"}, [], "such as my-cluster"),
    ({"project": "my project"}, [], "--project=my project: must be"),
    ({"zone": "europe"}, [], "--zone=europe: must be a zone such as"),
    ({"tpu_type": "v5e-16"}, [], "did you mean v5litepod-16?"),
    ({"docker_image": "a b"}, [], "--docker-image=a b: must be"),
    ({"priority": "hihg"}, [], "did you mean high?"),
    ({"num_slices": 0}, [], "--num-slices=0: must be at least 1"),
    ({"num_slices": "two"}, [], "--num-slices=two: must be a whole number"),
    ({"max_restarts": -1}, [], "--max-restarts=-1: must be at least 0"),
    ({"workload": "Bad_Name"}, [], "such as bad-name"),
    ({"env": "A-B=1"}, [], "such as A_B"),
    ({"env": "A"}, [], "must be NAME=VALUE"),
    ({"env": "A=1\n2"}, [], "must be one line"),
    ({"env": "M_SPARSTY=0.8"}, [], "did you mean M_SPARSITY?"),
    ({"env": "M_RUN_NAME=a"}, [], "M_RUN_NAME=a: run_name=s80 is on the command line too"),
    ({}, ["tokenizer_path=a\nb"], "must be one line"),
    ({}, ["sparsty=0.8"], "sparsty=0.8: MaxText has no such key, did you mean sparsity?"),
    ({}, ["steps=5", "steps=6"], "steps=6: steps=5 is given too, keep one"),
    ({}, ["sparsity=1.5"], "sparsity=1.5: must be less than 1"),
    ({}, ["sparsity=0.8", "steps=50"], "gmp_pruning_frequency=100: longer than the pruning phase"),
    ({}, ["--", "--quiet"], "this command sets --quiet itself"),
    ({}, ["--", "--work=x"], "this command sets --workload itself"),
    ({"xpk": "/no/such/xpk"}, [], "bash launch/xpk.sh"),
  ],
)
def test_what_cannot_work_is_refused_in_one_line_before_xpk_runs(changes, words, message, tmp_path):
  never = tmp_path / "xpk"
  never.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n", encoding="utf-8")
  never.chmod(0o755)
  before, _, after = "\0".join(words).partition("--\0")
  rest = ["--", after] if after else []
  words = [word for word in before.split("\0") if word]
  status, out, error = call("launch", "xpk", *RUN, *words, *flags(**changes), "--dry-run", *rest, XPK=str(never))
  assert status == 2 and out == "" and error.count("\n") == 1 and error.startswith("maxtext-sparse: error: ")
  assert message in error
  assert not (tmp_path / "called").exists()


def test_a_run_without_a_name_is_refused():
  status, _, error = call("launch", "xpk", RUN[1], "run_name=", *flags(), XPK="/bin/false")
  assert status == 2 and "run_name: missing" in error and error.count("\n") == 1


def test_a_variable_given_twice_is_refused():
  status, _, error = call("launch", "xpk", *RUN, *flags(), "--env", "A=1", "--env", "A=2", XPK="/bin/false")
  assert status == 2 and "--env=A=2: A is given twice, keep one" in error and error.count("\n") == 1


@pytest.mark.parametrize(
  "override, message",
  [
    ("base_output_directory=/tmp/out", "must be gs://"),
    ("hardware=cpu", "must be tpu"),
    ("enable_checkpointing=False", "could not resume"),
  ],
)
def test_a_real_submission_must_survive_its_pod(override, message):
  others = [word for word in RUN if word.partition("=")[0] != override.partition("=")[0]]
  status, _, error = call("launch", "xpk", *others, override, *flags(), XPK="/bin/false")
  assert status == 2 and message in error and error.count("\n") == 1
