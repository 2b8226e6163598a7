"""The demo's corpus: complete or not there, the same everywhere, and every character of it survives the vocabulary."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig

from hypothesis import given, strategies
import pyarrow.parquet
import pytest
import sentencepiece

from maxtext_sparse.config import ConfigError
from maxtext_sparse.local.corpus import build_corpus, CorpusSettings, cut_at_lines, split_files
from maxtext_sparse.local.sources import read_files

SETTINGS = CorpusSettings(train_chars=300_000, eval_chars=40_000, document_chars=1_000, vocab_size=512)
PACKAGES = ("json", "email", "logging", "urllib", "collections")


@pytest.fixture
def source(tmp_path):
  """A small tree of real text files."""
  folder = tmp_path / "source"
  for package in PACKAGES:
    shutil.copytree(os.path.join(sysconfig.get_path("stdlib"), package), folder / package)
  return str(folder)


@pytest.fixture
def target(tmp_path):
  (tmp_path / "out").mkdir()
  return str(tmp_path / "out" / "corpus")


def documents(path):
  return pyarrow.parquet.read_table(path).column("text").to_pylist()


@given(strategies.text(alphabet="ab\n\r\x0c é", max_size=200), strategies.integers(1, 30))
def test_cutting_loses_nothing(text, limit):
  pieces = list(cut_at_lines(text, limit))
  assert "".join(pieces) == text
  assert all(0 < len(piece) <= limit for piece in pieces)


def test_corpus_holds_the_text(source, target):
  corpus = build_corpus(target, source, SETTINGS)
  train, held_out = documents(corpus.train_file), documents(corpus.eval_file)
  assert sum(map(len, train)) == corpus.train_chars >= 200_000
  assert sum(map(len, held_out)) == corpus.eval_chars >= SETTINGS.eval_chars
  assert max(map(len, train + held_out)) <= SETTINGS.document_chars
  text = "".join(read_files(source).values())
  assert all(document in text for document in train[:50] + held_out[:50])


def test_whole_files_are_held_out(source):
  files = read_files(source)
  whole = CorpusSettings(train_chars=10**9, eval_chars=40_000, document_chars=10**9)
  train, held_out = split_files(files, whole)
  assert sorted(train + held_out) == sorted(files.values())
  assert len(held_out) >= 8


def test_two_builds_are_equal(source, target, tmp_path):
  first = build_corpus(target, source, SETTINGS)
  second = build_corpus(str(tmp_path / "again"), source, SETTINGS)
  assert first.fingerprint == second.fingerprint
  assert documents(first.train_file) == documents(second.train_file)
  with open(first.vocabulary_file, "rb") as one, open(second.vocabulary_file, "rb") as other:
    assert one.read() == other.read()


def test_vocabulary_gives_back_every_character(source, target):
  corpus = build_corpus(target, source, SETTINGS)
  vocabulary = sentencepiece.SentencePieceProcessor(model_file=corpus.vocabulary_file)
  assert vocabulary.vocab_size() == SETTINGS.vocab_size
  assert (vocabulary.pad_id(), vocabulary.eos_id(), vocabulary.bos_id(), vocabulary.unk_id()) == (0, 1, 2, 3)
  texts = documents(corpus.eval_file)[:50] + ["  a\n\n\tb  \n", "é ☃ \U0001f40d", "0x10FFFF"]
  assert [vocabulary.decode(vocabulary.encode(text)) for text in texts] == texts
  tokens = sum(len(vocabulary.encode(text)) for text in texts)
  assert sum(map(len, texts)) / tokens > 1.7


def test_second_call_reuses(source, target):
  first = build_corpus(target, source, SETTINGS)
  written = os.stat(first.train_file).st_mtime_ns
  second = build_corpus(target, source, SETTINGS)
  assert (first.is_reused, second.is_reused) == (False, True)
  assert os.stat(second.train_file).st_mtime_ns == written
  assert (first.train_chars, first.fingerprint) == (second.train_chars, second.fingerprint)


def test_changed_text_or_settings_build_anew(source, target):
  first = build_corpus(target, source, SETTINGS)
  with open(os.path.join(source, "json", "decoder.py"), "a", encoding="utf-8") as file:
    file.write("# one more line\n")
  second = build_corpus(target, source, SETTINGS)
  third = build_corpus(target, source, CorpusSettings(**(vars(SETTINGS) | {"vocab_size": 600})))
  assert not second.is_reused and not third.is_reused
  assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3
  assert sentencepiece.SentencePieceProcessor(model_file=third.vocabulary_file).vocab_size() == 600


@pytest.mark.parametrize("is_rebuild", [False, True])
def test_a_killed_build_leaves_nothing_half_made(source, target, is_rebuild):
  if is_rebuild:
    build_corpus(target, source, CorpusSettings(**(vars(SETTINGS) | {"vocab_size": 600})))
  before = sorted(os.listdir(target)) if is_rebuild else None
  code = (
    "import os, sys; from maxtext_sparse.local import corpus\n"
    "corpus.train_vocabulary = lambda *args: os.kill(os.getpid(), 9)\n"
    f"corpus.build_corpus(sys.argv[1], sys.argv[2], corpus.{SETTINGS!r})"
  )
  killed = subprocess.run([sys.executable, "-c", code, target, source], check=False)
  assert killed.returncode == -signal.SIGKILL
  assert (sorted(os.listdir(target)) if os.path.exists(target) else None) == before
  corpus = build_corpus(target, source, SETTINGS)
  assert not corpus.is_reused and len(documents(corpus.train_file)) > 100
  assert os.listdir(os.path.dirname(target)) == ["corpus"]


def test_packages_give_the_training_text_that_is_lacking(source, target, tmp_path, monkeypatch):
  package = tmp_path / "packages" / "thing"
  package.mkdir(parents=True)
  for number in range(60):
    (package / f"part{number}.md").write_text(f"Part {number}. " + "Some words of a package. " * 400)
  monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "packages"))
  plain = build_corpus(str(tmp_path / "plain"), source, CorpusSettings(**(vars(SETTINGS) | {"train_chars": 1_200_000})))
  more = CorpusSettings(**(vars(SETTINGS) | {"train_chars": 1_200_000, "packages": True}))
  corpus = build_corpus(target, source, more)
  assert plain.train_chars < 1_000_000 and 1_150_000 < corpus.train_chars < 1_220_000
  assert documents(corpus.eval_file) == documents(plain.eval_file)
  # There is enough text without packages here, and then they are not read.
  small = build_corpus(str(tmp_path / "small"), source, CorpusSettings(**(vars(SETTINGS) | {"packages": True})))
  assert not any("Some words of a package" in text for text in documents(small.train_file))


def test_too_little_text_is_one_clear_line(tmp_path, target):
  with pytest.raises(ConfigError, match=r"0 characters of .* the demo needs 80000; use a Python whose standard"):
    build_corpus(target, str(tmp_path / "missing"), SETTINGS)
  assert not os.path.exists(target)


def test_a_vocabulary_larger_than_the_text_allows(source, target):
  with pytest.raises(ConfigError, match=r"vocab_size=90000: sentencepiece cannot build this vocabulary \(.*\)"):
    build_corpus(target, source, CorpusSettings(**(vars(SETTINGS) | {"vocab_size": 90_000})))
  assert os.listdir(os.path.dirname(target)) == []
