"""Config files: MaxText's scalars, chains of bases, several files merged, and one line for each that cannot be read."""

from hypothesis import example, given
from hypothesis import strategies as st
import pytest

from maxtext_sparse.config_files import dump, flatten, merge_configs, near_file, read_config, read_local_files, stock_name
from maxtext_sparse.errors import ConfigError


@pytest.fixture
def write(tmp_path):
  def write(name, text):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)

  return write


def test_scalars_are_read_as_maxtext_reads_them(write):
  from omegaconf import OmegaConf

  path = write("run.yml", "a: 1e-9\nb: 2026-11-22\nc: 2:4\nd: yes\ne: '1e-9'\nf: null\ng: [1e3, .5]\n")
  content = read_config(path)
  assert content == OmegaConf.to_container(OmegaConf.load(path))
  assert content["a"] == 1e-9 and content["e"] == "1e-9" and content["b"] == "2026-11-22"


@given(st.dictionaries(st.text("abcdef_", min_size=1), st.one_of(st.text(), st.floats(allow_nan=False), st.integers())))
@example({"run_name": "12e5", "a": "2026-11-22", "b": "1e-9", "c": "no", "d": 1e-9, "e": "0x1f", "f": "1_000"})
def test_what_is_written_maxtext_reads_back(content):
  from omegaconf import OmegaConf

  assert OmegaConf.to_container(OmegaConf.create(dump(content)), resolve=False) == content


def test_a_chain_ends_at_maxtexts_own_file(write):
  write("suite.yml", "base_config: base.yml\nsteps: 10\nkept: {a: 1, b: 2}\n")
  write("models/small.yml", "base_config: ../suite.yml\nbase_emb_dim: 64\n")
  top = write("models/run.yml", "base_config: small.yml\nsteps: 20\nkept: {b: 3}\n")
  assert flatten(merge_configs([top])) == {
    "steps": 20,
    "kept": {"a": 1, "b": 3},
    "base_emb_dim": 64,
    "base_config": "base.yml",
  }


def test_later_files_win_and_share_one_base(write):
  write("suite.yml", "steps: 10\nsparsity: 0.1\n")
  model = write("model.yml", "base_config: suite.yml\nsteps: 20\n")
  run = write("run.yml", "base_config: suite.yml\nsparsity: 0.8\n")
  assert flatten(merge_configs([model, run])) == {"steps": 20, "sparsity": 0.8, "base_config": "base.yml"}
  other = write("other/run.yml", "base_config: post_train/sft.yml\n")
  with pytest.raises(ConfigError, match=r"^base_config=post_train/sft.yml: .*run.yml names another base"):
    merge_configs([model, other])


def test_files_based_on_each_other_are_refused(write):
  write("b.yml", "base_config: a.yml\n")
  with pytest.raises(ConfigError, match=r"^base_config=.*\.yml: this file is based on itself"):
    flatten(merge_configs([write("a.yml", "base_config: b.yml\n")]))


def test_a_checkouts_own_files_are_maxtexts(write, tmp_path, monkeypatch):
  path = write("src/maxtext/configs/models/gemma.yml", "base_emb_dim: 2048\n")
  assert stock_name(path) == "models/gemma.yml" and stock_name(write("mine.yml", "")) is None
  run = write("run.yml", f"base_config: {path}\nsteps: 3\n")
  assert flatten(merge_configs([run])) == {"steps": 3, "base_config": "models/gemma.yml"}
  monkeypatch.chdir(tmp_path)
  assert stock_name("base.yml") == "base.yml"
  write("base.yml", "steps: 1\n")
  assert stock_name("base.yml") is None


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("- 1\n", "run.yml: is not a MaxText config, must be a YAML mapping of lines `key: value`$"),
    ("", "run.yml: is empty, a MaxText config needs at least one line `key: value`$"),
    ("a: [1\n", "run.yml: is not YAML that MaxText can read, line 2, column 1: "),
    ("a: {b: 1, b: 2}\n", "run.yml: is not YAML that MaxText can read, line 1, column 11: the key b is there twice$"),
  ],
)
def test_what_is_no_config_is_one_line(write, text, message):
  with pytest.raises(ConfigError, match=message) as raised:
    read_config(write("run.yml", text))
  assert "\n" not in str(raised.value)


def test_a_binary_file_is_one_line(tmp_path):
  (tmp_path / "run.yml").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(ConfigError, match=r"run.yml: is not a text file, must be UTF-8$"):
    read_config(str(tmp_path / "run.yml"))


def test_a_missing_file_gets_the_nearest_name(write, tmp_path, monkeypatch):
  write("small.yml", "")
  monkeypatch.chdir(tmp_path)
  assert near_file("smal.yml") == ", did you mean small.yml?" and near_file("xyz.yml") == ""
  with pytest.raises(ConfigError, match=r"^smal.yml: cannot read this config file \(.*\), did you mean small.yml\?$"):
    read_config("smal.yml")


def test_the_files_of_a_run_are_those_named_and_their_bases(write):
  suite = write("suite.yml", "base_config: base.yml\nsteps: 10\n")
  model = write("models/small.yml", "base_config: ../suite.yml\nbase_emb_dim: 64\n")
  keys = write("keys.yml", "sparsity: 0.5\n")
  assert list(read_local_files([model, "base.yml", keys])) == [model, keys, suite]


def test_a_merge_key_may_repeat_what_it_merges(write):
  content = read_config(write("run.yml", "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n"))
  assert content["b"] == {"x": 3, "y": 2}


def test_maxtexts_own_files_are_found_by_their_names():
  assert stock_name("post_train/sft.yml") == "post_train/sft.yml" == stock_name("src/maxtext/configs/post_train/sft.yml")
  assert stock_name("post_train/no_such.yml") is None
