"""A run's files and overrides as arguments: MaxText reads from them what it reads from the files."""

import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st
import omegaconf
import pytest
import yaml

from maxtext_sparse.cluster.command import read_arguments
from maxtext_sparse.cluster.quoting import shell_word, to_text
from maxtext_sparse.errors import ConfigError

# No interpolation: MaxText would look ${x} up in files and arguments alike. No lone surrogates: they are no text.
_TEXT = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "${" not in text and text != "???")
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT
_VALUES = st.recursive(
  _SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc_", min_size=1), inner), max_leaves=8
)
NASTY = [
  'it\'s "quoted"',
  "$HOME $(HOME) $$ ${0} `id`",
  "# not a comment",
  "a\\b\\",
  "  spaces  ",
  '{"a": [1, "b"]}',
  "yes",
  "null",
  "1e-3",
  "2:4",
  "2024-01-01",
  "-x",
  "!tag",
  "*a",
  "&a",
  "a: b",
  "[silu,linear]",
  "ümlaut 語 😀",
  "tab\tand\u2028separator",
  "two\nlines",
  "",
]


def through_bash(words):
  """The words as a program sees them."""
  script = "printf '%s\\0' " + " ".join(map(shell_word, words))
  done = subprocess.run(["bash", "-c", script], capture_output=True, env={"LC_ALL": "C"}, check=True)
  return done.stdout.decode().split("\0")[:-1]


def as_maxtext_reads(words):
  return omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.from_cli(words))


@settings(max_examples=150)
@given(_VALUES)
def test_any_value_comes_back_equal_through_bash_and_maxtexts_parser(value):
  assert as_maxtext_reads(through_bash([f"key={to_text(value)}"])) == {"key": value}


@pytest.mark.parametrize("value", [text for text in NASTY if "${" not in text])
def test_a_nasty_text_comes_back_equal_alone_and_in_a_list(value):
  words = through_bash([f"key={to_text(value)}", f"keys={to_text([value, {'a': value}])}"])
  assert as_maxtext_reads(words) == {"key": value, "keys": [value, {"a": value}]}


@pytest.mark.parametrize("value", ["gs://bucket/a-b_c/*.array_record", "bfloat16", "relu", 0.8, -1, True])
def test_a_plain_value_stays_readable(value):
  assert to_text(value) in (value, str(value), str(value).lower())
  assert shell_word("key=silu") == "key=silu"


@pytest.mark.parametrize("text", ["a\nb", "a\r", "a\0"])
def test_a_line_break_in_an_override_is_refused(text):
  with pytest.raises(ConfigError, match="must be one line"):
    read_arguments([f"tokenizer_path={text}"])


@pytest.fixture
def files(tmp_path):
  """A model on a local base on MaxText's base.yml, with values of every kind."""
  (tmp_path / "shared.yml").write_text(
    yaml.safe_dump({"base_config": "base.yml", "steps": 10, "vocab_size": 1000, "opt_type": "sgd"}), encoding="utf-8"
  )
  model = {
    "base_config": "shared.yml",
    "steps": 20,
    "learning_rate": 3.0e-4,
    "mlp_activations": ["silu", "linear"],
    "enable_dropout": False,
    "tokenizer_path": 'it\'s a "path" with $HOME # and \\',
    "prune_exclude": ["self_attention/(query|key)", ".*wo$"],
    "load_parameters_path": "",
    "hf_access_token": None,
    "logical_axis_rules": [["activation_batch", ["data", "fsdp"]], ["vocab", []]],
    "override_logical_axis_rules": True,
  }
  (tmp_path / "model.yml").write_text(yaml.safe_dump(model) + "adam_eps: 1e-9\n", encoding="utf-8")
  (tmp_path / "sparsity.yml").write_text("sparsity: 0.5\nsteps: 30\ngmp_pruning_frequency: 2\n", encoding="utf-8")
  return tmp_path


@pytest.mark.parametrize("names", [["model.yml"], ["model.yml", "sparsity.yml"]])
def test_maxtext_reads_the_same_config_from_the_arguments_as_from_the_files(files, names):
  from maxtext.configs import pyconfig

  from maxtext_sparse.entry import merged_configs
  from maxtext_sparse.hooks import installed

  overrides = ["run_name=x", "base_emb_dim=128", "do_not_prune_kw='it''s'"]
  paths = [str(files / name) for name in names]
  words = through_bash(read_arguments([*paths, *overrides]).words())
  fixed = ["hardware=cpu", "skip_jax_distributed_system=True"]
  read = lambda arguments: pyconfig.initialize_pydantic(["train.py", *arguments, *fixed]).model_dump()
  with installed():
    with merged_configs([*paths, *overrides]) as local:
      from_files = read(local)
    with merged_configs(words) as sent:
      from_arguments = read(sent)
  assert words[0] == "base.yml" and from_files.pop("base_config") != from_arguments.pop("base_config")
  assert from_arguments == from_files


def test_axis_rules_of_a_file_replace_those_of_maxtext(tmp_path):
  (tmp_path / "rules.yml").write_text("logical_axis_rules: [[vocab, []]]\n", encoding="utf-8")
  assert "override_logical_axis_rules=true" in read_arguments([str(tmp_path / "rules.yml")]).words()


def test_an_override_wins_over_the_files(files):
  arguments = read_arguments([str(files / "model.yml"), "steps=5"])
  assert arguments.values["steps"] == 5
  assert [word for word in arguments.words() if word.startswith("steps=")] == ["steps=5"]


@pytest.mark.parametrize(
  "words, message",
  [
    (["missing.yml"], "missing.yml: no such config file"),
    (["sparsty=0.8"], r"sparsty=0.8: MaxText has no such key, did you mean sparsity\?"),
    (["steps=5", "steps=6"], "steps=6: steps=5 is given too, keep one"),
    (["=1"], "=1: must be key=value"),
    (["a b=1"], "a b=1: must be key=value"),
    (["steps=[1"], r"steps=\[1: is not a value that MaxText can read"),
  ],
)
def test_what_is_no_config_and_no_key_is_refused(words, message):
  with pytest.raises(ConfigError, match=f"^{message}"):
    read_arguments(words)
