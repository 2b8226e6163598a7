"""Real text without a network: the source text of this machine's Python as documents, and a vocabulary for it.

One folder holds the corpus: `train.parquet eval.parquet vocabulary.model manifest.json`. It is built under another name
and then renamed, so that it is complete or does not exist. The manifest holds a fingerprint of the text and of the
settings. Another version of Python, or other settings, therefore build the corpus again.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import hashlib
import io
import json
import os
import shutil
import sysconfig
import tempfile
from typing import Any

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.local.sources import digest_of, read_files, read_packages

_MANIFEST = "manifest.json"
_FORMAT = 1
_SMALLEST_NUM_HELD_OUT = 8
# The vocabulary is trained on this many characters. More of them take longer and change little.
_VOCABULARY_CHARS = 2_000_000

_VOCABULARY_OPTIONS: dict[str, Any] = {
  "model_type": "bpe",
  # The numbers that MaxText's own vocabularies use. MaxText reads them from the model.
  "pad_id": 0,
  "eos_id": 1,
  "bos_id": 2,
  "unk_id": 3,
  # With these, decoding returns every character of the text, also newlines and indentation.
  "normalization_rule_name": "identity",
  "remove_extra_whitespaces": False,
  "add_dummy_prefix": False,
  "allow_whitespace_only_pieces": True,
  "user_defined_symbols": ["\n"],
  "byte_fallback": True,
  "split_digits": True,
  "max_sentence_length": 16_384,
  "num_threads": 1,
  "minloglevel": 2,
}


@dataclasses.dataclass(frozen=True)
class CorpusSettings:
  """Sizes of the corpus.

  Attributes:
    train_chars: characters of training text; less if there is not so much text.
    eval_chars: characters of held-out text. Whole files are held out, so that the real number is a little higher.
    document_chars: length of the longest document. Files are cut at line ends, and the pieces are shuffled.
    vocab_size: number of tokens in the vocabulary, of which 256 are single bytes.
    packages: whether the installed packages give the training text that the standard library lacks. The held-out text
      is that of the standard library in any case.
  """

  train_chars: int = 8_000_000
  eval_chars: int = 400_000
  document_chars: int = 2_600
  vocab_size: int = 2_048
  packages: bool = False

  @property
  def smallest_chars(self) -> int:
    """Least amount of text from which a corpus is made."""
    return 2 * self.eval_chars


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A corpus on disk.

  Attributes:
    directory: its folder.
    fingerprint: changes with the text and with the settings.
    train_chars: characters of training text.
    eval_chars: characters of held-out text.
    is_reused: whether the corpus was there already.
  """

  directory: str
  fingerprint: str
  train_chars: int
  eval_chars: int
  is_reused: bool = False

  @property
  def train_file(self) -> str:
    """Path of the training documents, a parquet file with one column `text`."""
    return os.path.join(self.directory, "train.parquet")

  @property
  def eval_file(self) -> str:
    """Path of the held-out documents, as `train_file`."""
    return os.path.join(self.directory, "eval.parquet")

  @property
  def vocabulary_file(self) -> str:
    """Path of the sentencepiece model."""
    return os.path.join(self.directory, "vocabulary.model")


def build_corpus(directory: str, source: str | None = None, settings: CorpusSettings = CorpusSettings()) -> Corpus:
  """Builds the corpus in `directory`. If one is there with the same text and settings, returns that.

  Args:
    directory: a folder for the corpus alone; its parent must exist.
    source: a folder of text files, that of the standard library if None.
    settings: sizes, and whether packages are read.

  Raises:
    ConfigError: `source` has too little text, or `directory` holds something else.
  """
  refuse_foreign(directory, _MANIFEST)
  source = source or sysconfig.get_path("stdlib")
  files = _all_files(source, settings)
  fingerprint = _fingerprint(files, settings)
  manifest = _read_manifest(directory)
  if manifest.get("fingerprint") != fingerprint:
    _check_amount(files, source, settings)
    manifest = _build(directory, files, settings, fingerprint)
    return Corpus(directory, fingerprint, manifest["train_chars"], manifest["eval_chars"])
  return Corpus(directory, fingerprint, manifest["train_chars"], manifest["eval_chars"], is_reused=True)


def split_files(files: dict[str, str], settings: CorpusSettings) -> tuple[list[str], list[str]]:
  """Training and held-out documents.

  Whole files are held out, because a model that was trained on one part of a file knows much about the next. Large files
  are not held out, so that the held-out text comes from many files.
  """
  train, held_out = [], []
  num_train = num_held_out = 0
  for path, text in files.items():
    if num_held_out < settings.eval_chars and len(text) <= settings.eval_chars / _SMALLEST_NUM_HELD_OUT:
      held_out.append(path)
      num_held_out += len(text)
    elif num_train < settings.train_chars:
      train.append(path)
      num_train += len(text)
  limit = settings.document_chars
  return _shuffled_documents(files, train, limit), _shuffled_documents(files, held_out, limit)


def cut_at_lines(text: str, limit: int) -> Iterator[str]:
  """The text in pieces of at most `limit` characters, which end with a line unless the line is longer than that."""
  piece = ""
  for line in text.splitlines(keepends=True):
    if piece and len(piece) + len(line) > limit:
      yield piece
      piece = ""
    while len(line) > limit:
      yield line[:limit]
      line = line[limit:]
    piece += line
  if piece:
    yield piece


def train_vocabulary(documents: Iterable[str], vocab_size: int) -> bytes:
  """A sentencepiece BPE model, serialized.

  Raises:
    ConfigError: the documents are too few for so many tokens.
  """
  import sentencepiece

  lines = (line for document in documents for line in document.split("\n") if line)
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=lines, model_writer=model, vocab_size=vocab_size, **_VOCABULARY_OPTIONS
    )
  except RuntimeError as error:
    raise ConfigError(
      f"vocab_size={vocab_size}: sentencepiece cannot build this vocabulary ({_last_line(error)})"
    ) from error
  return model.getvalue()


def refuse_foreign(directory: str, marker: str) -> None:
  """Raises ConfigError for a folder that has files but not the file `marker`: the demo did not make it."""
  if os.path.isdir(directory) and os.listdir(directory) and not os.path.exists(os.path.join(directory, marker)):
    raise ConfigError(f"{directory}: has files that are not the demo's, give another --out")


def _all_files(source: str, settings: CorpusSettings) -> dict[str, str]:
  """The files of `source`, and those of packages until there is enough text."""
  files = read_files(source)
  lacking = settings.train_chars + settings.eval_chars - sum(map(len, files.values()))
  if not settings.packages or lacking <= 0:
    return files
  return files | read_packages(sysconfig.get_path("purelib"), lacking, set(files.values()))


def _build(directory: str, files: dict[str, str], settings: CorpusSettings, fingerprint: str) -> dict[str, Any]:
  train, held_out = split_files(files, settings)
  manifest: dict[str, Any] = {
    "fingerprint": fingerprint,
    "train_chars": sum(map(len, train)),
    "eval_chars": sum(map(len, held_out)),
    "train_documents": len(train),
    "eval_documents": len(held_out),
  }
  parent, name = os.path.split(os.path.abspath(directory))
  _remove_leftovers(parent, name)
  aside = tempfile.mkdtemp(prefix=f".{name}-", dir=parent)
  try:
    corpus = Corpus(aside, fingerprint, manifest["train_chars"], manifest["eval_chars"])
    _write_parquet(corpus.train_file, train)
    _write_parquet(corpus.eval_file, held_out)
    with open(corpus.vocabulary_file, "wb") as file:
      file.write(train_vocabulary(_sample(train, _VOCABULARY_CHARS), settings.vocab_size))
    with open(os.path.join(aside, _MANIFEST), "w", encoding="utf-8") as file:
      json.dump(manifest, file, indent=1)
    shutil.rmtree(directory, ignore_errors=True)
    os.rename(aside, directory)
  finally:
    shutil.rmtree(aside, ignore_errors=True)
  return manifest


def _write_parquet(path: str, documents: Sequence[str]) -> None:
  import pyarrow
  import pyarrow.parquet

  pyarrow.parquet.write_table(pyarrow.table({"text": list(documents)}), path)


def _remove_leftovers(parent: str, name: str) -> None:
  """Removes the unfinished folders of builds that were killed."""
  for entry in os.listdir(parent):
    if entry.startswith(f".{name}-"):
      shutil.rmtree(os.path.join(parent, entry), ignore_errors=True)


def _shuffled_documents(files: dict[str, str], paths: Sequence[str], limit: int) -> list[str]:
  pieces = [(path, n, piece) for path in paths for n, piece in enumerate(cut_at_lines(files[path], limit))]
  return [piece for path, n, piece in sorted(pieces, key=lambda entry: digest_of(f"{entry[0]}#{entry[1]}"))]


def _sample(documents: Sequence[str], num_chars: int) -> Iterator[str]:
  for document in documents:
    if num_chars <= 0:
      return
    num_chars -= len(document)
    yield document


def _fingerprint(files: dict[str, str], settings: CorpusSettings) -> str:
  digest = hashlib.sha256(json.dumps([_FORMAT, dataclasses.asdict(settings)]).encode())
  for path, text in files.items():
    digest.update(f"{path}\0{len(text)}\0".encode())
    digest.update(text.encode())
  return digest.hexdigest()


def _check_amount(files: dict[str, str], source: str, settings: CorpusSettings) -> None:
  amount = sum(map(len, files.values()))
  if amount < settings.smallest_chars:
    raise ConfigError(
      f"{source}: {amount} characters of .py and .txt text, the demo needs {settings.smallest_chars}; "
      "use a Python whose standard library is there as source files"
    )


def _read_manifest(directory: str) -> dict[str, Any]:
  try:
    with open(os.path.join(directory, _MANIFEST), encoding="utf-8") as file:
      manifest = json.load(file)
  except (OSError, ValueError):
    return {}
  return manifest if isinstance(manifest, dict) else {}


def _last_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return lines[-1] if lines else type(error).__name__
