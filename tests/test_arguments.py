"""The shared check of `CONFIG ... key=value ...`: what every command refuses in the same words, without jax."""

import os
from pathlib import Path
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from maxtext_sparse.arguments import check_arguments, check_variables, known_keys, parse_value, split_words
from maxtext_sparse.config import KEYS
from maxtext_sparse.errors import ConfigError

REPO = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The working folder, with one file of each kind that is no config."""
  monkeypatch.chdir(tmp_path)
  contents = {
    "good.yml": b"base_config: base.yml\nsteps: 10\n",
    "plain.yml": b"sparsity: 0.5\n",
    "empty.yml": b"",
    "comment.yml": b"# nothing\n",
    "binary.yml": b"\x7fELF\x00\x01\x02",
    "latin.yml": "name: \u00e9\n".encode("latin-1"),
    "tabs.yml": b"debug:\n\trl: true\n",
    "open.yml": b"steps: [1, 2\n",
    "list.yml": b"- steps\n",
    "twice.yml": b"steps: 1\nsparsity: 0.5\nsteps: 2\n",
    "numbers.yml": b"1: 2\n",
    "self.yml": b"base_config: self.yml\nsteps: 1\n",
    "a.yml": b"base_config: b.yml\n",
    "b.yml": b"base_config: a.yml\n",
    "orphan.yml": b"base_config: gone.yml\nsteps: 1\n",
    "far.yml": b"base_config: /no/such/base.yml\n",
    "based_on_bad.yml": b"base_config: open.yml\n",
    "based_on_number.yml": b"base_config: 5\n",
    "deep.yml": b"a: " + b"[" * 5000,
    "unknown.yml": b"sparsty: 0.8\n",
    "foreign.yml": b"learning_rat: 0.8\n",
  }
  for name, content in contents.items():
    (tmp_path / name).write_bytes(content)
  (tmp_path / "dir.yml").mkdir()
  os.mkfifo(tmp_path / "pipe.yml")
  return tmp_path


BAD_FILES = [
  ("missing.yml", r"missing\.yml: no such config file"),
  ("src/maxtext/configs/bsae.yml", r"src/maxtext/configs/bsae\.yml: no such config file"),
  ("goood.yml", r"goood\.yml: no such config file, did you mean good\.yml\?"),
  ("steps", r"steps: no such config file; to set this key, write steps=VALUE"),
  ("dir.yml", r"dir\.yml: is a folder, must be a config file"),
  ("pipe.yml", r"pipe\.yml: is not a regular file, must be a config file"),
  ("empty.yml", r"empty\.yml: is empty, a MaxText config needs at least one line `key: value`"),
  ("comment.yml", r"comment\.yml: is empty"),
  ("binary.yml", r"binary\.yml: is not a text file"),
  ("latin.yml", r"latin\.yml: is not a text file, must be UTF-8"),
  ("tabs.yml", r"tabs\.yml: is not YAML that MaxText can read, line 2, column 1: there is a tab, YAML is indented with"),
  ("open.yml", r"open\.yml: is not YAML that MaxText can read, line 2, column 1: expected ',' or '\]'"),
  ("list.yml", r"list\.yml: is not a MaxText config, must be a YAML mapping"),
  ("twice.yml", r"twice\.yml: is not YAML that MaxText can read, line 3, column 1: the key steps is there twice"),
  ("numbers.yml", r"numbers\.yml: the key 1 is not a name"),
  ("self.yml", r"base_config=.*self\.yml: this file is based on itself, the last base must be base\.yml"),
  ("a.yml", r"base_config=.*[ab]\.yml: this file is based on itself"),
  ("orphan.yml", r"orphan\.yml: base_config=gone\.yml: no such file"),
  ("far.yml", r"far\.yml: base_config=/no/such/base\.yml: no such file"),
  ("based_on_bad.yml", r"open\.yml: is not YAML"),
  ("based_on_number.yml", r"based_on_number\.yml: base_config=5 must be the path of a config file"),
  ("deep.yml", r"deep\.yml: is not YAML that MaxText can read"),
  ("unknown.yml", r"unknown\.yml: sparsty=0.8: MaxText has no such key, did you mean sparsity\?"),
  ("foreign.yml", r"foreign\.yml: learning_rat=0.8: MaxText has no such key, did you mean learning_rate\?"),
]


@pytest.mark.parametrize("name, message", BAD_FILES)
@pytest.mark.parametrize("others", [[], ["plain.yml"]], ids=["alone", "after another"])
def test_one_bad_file_is_refused_as_two_are(folder, name, message, others):
  with pytest.raises(ConfigError, match=f"^(.*/)?{message}") as raised:
    check_arguments([*others, name], {})
  assert "\n" not in str(raised.value)


def test_a_file_that_may_not_be_read_is_one_line(folder):
  if os.geteuid() == 0:
    pytest.skip("root may read everything; tests/cli/test_bad_input.py asks as another user")
  (folder / "good.yml").chmod(0)
  with pytest.raises(ConfigError, match=r"^good\.yml: cannot read this config file \(Permission denied\)$"):
    check_arguments(["good.yml"], {})


@pytest.mark.parametrize(
  "words",
  [
    [],
    ["good.yml"],
    ["base.yml", "good.yml", "steps=5"],
    ["src/maxtext/configs/base.yml", "sparsity=0.8"],
    ["post_train/sft.yml"],
    ["run_name=a=b", "prune_include=['a','b']", "eval_start_step=5", "rampup_end_step=3"],
    ["lora.enable_lora=true", "lora.lora_rank=4"],
    ["good.yml", "--format", "hf", "--out=x"],
    ["steps=${oc.env:STEPS}", "sparsity=${oc.env:S}", "run_name=s-${sparsity}"],
  ],
)
def test_what_maxtext_takes_is_taken(folder, words):
  check_arguments(words, {})


@pytest.mark.parametrize(
  "words, message",
  [
    (["steps=1", "steps=2"], "steps=2: steps=1 is given too, keep one"),
    (["steps=1", "sparsity=0.5", "steps=1"], "steps=1: steps=1 is given too, keep one"),
    (["sparsty=0.8"], r"sparsty=0.8: MaxText has no such key, did you mean sparsity\?"),
    (["gmp_prune_fractoin=0.5"], r"gmp_prune_fractoin=0.5: MaxText has no such key, did you mean gmp_prune_fraction\?"),
    (["stesp=5"], r"stesp=5: MaxText has no such key, did you mean steps\?"),
    (
      ["per_device_batchsize=5"],
      r"per_device_batchsize=5: MaxText has no such key, did you mean per_device_batch_size\?",
    ),
    (["qqqq=5"], "qqqq=5: MaxText has no such key$"),
    (["=5"], "=5: must be key=value, with a key of MaxText"),
    (["a b=5"], "a b=5: must be key=value"),
    (["steps=[1"], r"steps=\[1: is not a value that MaxText can read"),
    (["run_name={a: 1, a: 2}"], ".* is not a value that MaxText can read"),
    (["run_name=a: b: c"], "run_name=a: b: c: is not a value that MaxText can read"),
    (["run_name=\x01"], r"run_name='\\x01': is not a value that MaxText can read"),
  ],
)
def test_what_it_does_not_take_is_refused_by_name(words, message):
  with pytest.raises(ConfigError, match=f"^{message}"):
    check_arguments(words, {})


@pytest.mark.parametrize(
  "variables, overrides, message",
  [
    ({"M_SPARSTY": "0.8"}, [], r"M_SPARSTY: MaxText ignores this variable, did you mean M_SPARSITY\?"),
    ({"M_sparsity": "0.8"}, [], r"M_sparsity: MaxText ignores this variable, did you mean M_SPARSITY\?"),
    ({"M_LEARNING_RATEE": "1"}, [], r"did you mean M_LEARNING_RATE\?"),
    ({"M_STEPS": "5"}, ["steps=6"], "M_STEPS=5: steps=6 is on the command line too, keep one"),
  ],
)
def test_variables_that_would_be_ignored_or_contradict_are_refused(variables, overrides, message):
  with pytest.raises(ConfigError, match=message):
    check_variables(variables, overrides)


def test_other_variables_are_left_alone():
  check_variables({"M_SPARSITY": "0.8", "M_ARENA": "1", "M_": "", "HOME": "/", "SPARSTY": "1"}, ["steps=6"])


def test_the_variables_of_this_process_count_unless_others_are_given(monkeypatch):
  monkeypatch.setenv("M_SPARSTY", "0.8")
  check_arguments(["steps=6"], {})
  with pytest.raises(ConfigError, match="M_SPARSTY"):
    check_arguments(["steps=6"])


def test_words_of_options_are_neither_configs_nor_keys():
  words = ["a.yml", "--format", "hf", "steps=5", "--size=x", "b.yml", "-v"]
  assert split_words(words) == (["a.yml", "b.yml"], ["steps=5"])


def test_the_known_keys_are_those_of_maxtexts_config_class_and_ours():
  from maxtext.configs import types

  assert {*types.MaxTextConfig.model_fields, *KEYS} <= known_keys()


def test_without_maxtext_only_what_is_almost_ours_is_refused(monkeypatch, tmp_path):
  """A machine that only submits has no MaxText; -S hides the installed one."""
  code = (
    "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + [sys.argv[1]]\n"
    "from maxtext_sparse.arguments import check_arguments, known_keys\n"
    "assert known_keys() is None\n"
    "check_arguments(['base.yml', 'anything=1', 'rampup_end_step=5', 'eval_start_step=5', 'sparsity=0.8'], {})\n"
    "check_arguments(['sparsty=0.8'], {})\n"
  )
  for name in ("yaml", "pydantic", "pydantic_core", "annotated_types", "typing_inspection", "typing_extensions.py"):
    source = next(path for path in map(os.path.join, sys.path, [name] * len(sys.path)) if os.path.exists(path))
    (tmp_path / name).symlink_to(source)
  done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
  assert done.stderr.splitlines()[-1].endswith("sparsty=0.8: MaxText has no such key, did you mean sparsity?"), (
    done.stderr
  )


def test_the_check_imports_neither_jax_nor_maxtext_and_takes_less_than_two_seconds(folder):
  code = (
    "import sys, time; start = time.monotonic(); from maxtext_sparse.arguments import check_arguments\n"
    "check_arguments(['base.yml', 'good.yml', 'sparsity=0.8', 'steps=1000'])\n"
    "assert not {'jax', 'maxtext', 'omegaconf', 'numpy'} & set(sys.modules), sorted(sys.modules)\n"
    "print(time.process_time())"
  )
  variables = os.environ | {"PYTHONPATH": str(REPO)}
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False)
  assert done.returncode == 0, done.stderr
  assert float(done.stdout) < 2


_WORDS = st.lists(
  st.text(max_size=20) | st.builds("{}={}".format, st.sampled_from(["steps", "sparsity", "a"]), st.text())
)


@given(_WORDS)
def test_whatever_is_typed_is_taken_or_refused_in_one_line(words):
  try:
    check_arguments(words, {})
  except ConfigError as error:
    assert str(error) and len(str(error).splitlines()) == 1


_VALUES = st.one_of(
  st.text(max_size=15),
  st.integers().map(str),
  st.floats().map(str),
  st.sampled_from(
    ["true", "none", "", "[]", "{a: 1}", "2:4", "4:2", "block:2x2", "0.5", "100", "hold", "one-shot", "erk"]
  ),
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([*KEYS, "steps", "run_name", "enable_diloco", "lora.enable_lora"]), _VALUES))
def test_random_values_of_keys_are_taken_or_one_of_the_keys_is_named(values):
  try:
    check_arguments([f"{key}={value}" for key, value in values.items()], {})
  except ConfigError as error:
    assert len(str(error).splitlines()) == 1
    assert any(key in str(error) for key in (*KEYS, *values)), (values, str(error))


@given(st.dictionaries(st.text("abcdefgimnoprstuy_", min_size=1, max_size=25), _VALUES, min_size=1, max_size=3))
def test_a_random_key_is_one_of_maxtexts_or_is_named(values):
  try:
    check_arguments([f"{key}={value}" for key, value in values.items()], {})
  except ConfigError as error:
    assert any(f"{key}=" in str(error) for key in values), str(error)
  else:
    assert values.keys() <= known_keys()


@given(st.text())
def test_a_value_is_read_or_refused(text):
  try:
    parse_value(text)
  except ConfigError as error:
    assert len(str(error).splitlines()) == 1
