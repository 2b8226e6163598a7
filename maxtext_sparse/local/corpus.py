"""Real text for the demo: the interpreter's own standard library, cut into documents, and a vocabulary trained on it.

Everything lands in one folder, `train.parquet eval.parquet vocabulary.model manifest.json`, built aside and renamed as
a whole: the folder is complete or it is not there. The manifest holds a fingerprint of the text and of the settings, so
another interpreter or other settings build it anew.
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

from maxtext_sparse.config import ConfigError

_MANIFEST = "manifest.json"
_FORMAT = 1
# Not the library's own prose: other people's packages, tests (absent on some systems) and tables of code points.
_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings"})
# Generated when the interpreter was built, different on every machine.
_SKIPPED_PREFIX = "_sysconfigdata"
_SUFFIXES = (".py", ".txt")
_SMALLEST_NUM_HELD_OUT = 8
# The vocabulary sees this many characters of the training text; more changes little and takes longer.
_VOCABULARY_CHARS = 2_000_000

_VOCABULARY_OPTIONS: dict[str, Any] = {
  "model_type": "bpe",
  # As MaxText's own vocabularies have them; MaxText reads them off the model.
  "pad_id": 0,
  "eos_id": 1,
  "bos_id": 2,
  "unk_id": 3,
  # Decoding gives back every character, newlines and indentation included.
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
    train_chars: most characters of training text.
    eval_chars: characters of held-out text; whole files are held out, so the real number is a little higher.
    document_chars: longest document; files are cut at line ends, then all documents are shuffled.
    vocab_size: tokens in the vocabulary, 256 of them single bytes.
  """

  train_chars: int = 8_000_000
  eval_chars: int = 400_000
  document_chars: int = 2_600
  vocab_size: int = 2_048

  @property
  def smallest_chars(self) -> int:
    """Text below which there is nothing to learn from."""
    return 2 * self.eval_chars


@dataclasses.dataclass(frozen=True)
class Corpus:
  """A finished corpus on disk. `fingerprint` changes with the text and with the settings."""

  directory: str
  fingerprint: str
  train_chars: int
  eval_chars: int
  is_reused: bool = False

  @property
  def train_file(self) -> str:
    return os.path.join(self.directory, "train.parquet")

  @property
  def eval_file(self) -> str:
    return os.path.join(self.directory, "eval.parquet")

  @property
  def vocabulary_file(self) -> str:
    return os.path.join(self.directory, "vocabulary.model")


def build_corpus(directory: str, source: str | None = None, settings: CorpusSettings = CorpusSettings()) -> Corpus:
  """Builds the corpus in `directory`, or returns the one that is there if text and settings are the same.

  Args:
    directory: the corpus's own folder; its parent must exist.
    source: folder of text files, the standard library's if None.
    settings: sizes.

  Raises:
    ConfigError: too little text in `source`, or `directory` holds something else.
  """
  refuse_foreign(directory, _MANIFEST)
  source = source or sysconfig.get_path("stdlib")
  files = read_files(source)
  fingerprint = _fingerprint(files, settings)
  manifest = _read_manifest(directory)
  if manifest.get("fingerprint") != fingerprint:
    _check_amount(files, source, settings)
    manifest = _build(directory, files, settings, fingerprint)
    return Corpus(directory, fingerprint, manifest["train_chars"], manifest["eval_chars"])
  return Corpus(directory, fingerprint, manifest["train_chars"], manifest["eval_chars"], is_reused=True)


def read_files(source: str) -> dict[str, str]:
  """Text of each file below `source` by relative path, in an order that is random but the same everywhere."""
  paths = sorted(_text_paths(source), key=_digest)
  texts = {path: _read_text(os.path.join(source, path)) for path in paths}
  return {path: text for path, text in texts.items() if text.strip()}


def split_files(files: dict[str, str], settings: CorpusSettings) -> tuple[list[str], list[str]]:
  """Training and held-out documents.

  Whole files are held out, because the neighbours of a document give it away; no large ones, so that there are many.
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
  """The text in pieces of at most `limit` characters that end with a line where they can."""
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
  """A serialized sentencepiece BPE model.

  Raises:
    ConfigError: the documents do not yield that many tokens.
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
  """Raises ConfigError for a folder with files in it that the demo did not make; it would replace them."""
  if os.path.isdir(directory) and os.listdir(directory) and not os.path.exists(os.path.join(directory, marker)):
    raise ConfigError(f"{directory}: has files that are not the demo's, give another --out")


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
  """Removes what a killed build left aside."""
  for entry in os.listdir(parent):
    if entry.startswith(f".{name}-"):
      shutil.rmtree(os.path.join(parent, entry), ignore_errors=True)


def _text_paths(source: str) -> Iterator[str]:
  for folder, subfolders, names in os.walk(source):
    subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
    for name in names:
      if name.endswith(_SUFFIXES) and not name.startswith(_SKIPPED_PREFIX):
        yield os.path.relpath(os.path.join(folder, name), source).replace(os.sep, "/")


def _read_text(path: str) -> str:
  try:
    with open(path, encoding="utf-8", newline="") as file:
      return file.read().replace("\r\n", "\n").replace("\0", "")
  except (OSError, UnicodeDecodeError):
    return ""  # a few library files are in other encodings, some packagings leave dangling links


def _shuffled_documents(files: dict[str, str], paths: Sequence[str], limit: int) -> list[str]:
  pieces = [(path, n, piece) for path in paths for n, piece in enumerate(cut_at_lines(files[path], limit))]
  return [piece for path, n, piece in sorted(pieces, key=lambda entry: _digest(f"{entry[0]}#{entry[1]}"))]


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
      return json.load(file)
  except (OSError, ValueError):
    return {}


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()


def _last_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return lines[-1] if lines else type(error).__name__
