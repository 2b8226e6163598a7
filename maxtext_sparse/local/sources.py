"""The text files of this machine that a corpus is made of: those of the standard library, and of installed packages."""

from collections.abc import Container, Iterator, Set
import hashlib
import os

# Not read: packages of other people, tests (some systems do not have them) and tables of code points.
_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings"})
# Begins the names of files that are written when Python is built, and that differ between machines.
_SKIPPED_PREFIX = "_sysconfigdata"
_SUFFIXES = (".py", ".txt")
# Packages also have their documentation.
_PACKAGE_SUFFIXES = (*_SUFFIXES, ".md", ".rst")
# Larger files of packages are mostly tables that a program has written.
_LONGEST_PACKAGE_FILE = 200_000


def read_files(source: str) -> dict[str, str]:
  """Relative path -> text of each file below `source`. The order is that of a hash of the path, the same everywhere."""
  texts = {path: _read_text(os.path.join(source, path)) for path in _ordered_paths(source, _SUFFIXES)}
  return {path: text for path, text in texts.items() if text.strip()}


def read_packages(folder: str, num_chars: int, known: Set[str] = frozenset()) -> dict[str, str]:
  """Path -> text of installed packages' files, until there are `num_chars` characters, in the order of `read_files`.

  Packages often hold copies of one file. Each text is taken once, so that no held-out file is trained on.

  Args:
    folder: the folder that packages are installed in.
    num_chars: wanted amount of text; less if there is not so much.
    known: texts that are left out.
  """
  files: dict[str, str] = {}
  # Hashes, because the texts themselves may be hundreds of megabytes.
  seen = {digest_of(text) for text in known}
  for path in _ordered_paths(folder, _PACKAGE_SUFFIXES):
    if num_chars <= 0:
      break
    text = _read_text(os.path.join(folder, path))
    if _is_wanted(text, seen):
      seen.add(digest_of(text))
      files[f"site-packages/{path}"] = text
      num_chars -= len(text)
  return files


def digest_of(text: str) -> str:
  """A hash that orders paths and documents in the same way everywhere."""
  return hashlib.sha256(text.encode()).hexdigest()


def _is_wanted(text: str, seen: Container[str]) -> bool:
  return bool(text.strip()) and len(text) <= _LONGEST_PACKAGE_FILE and digest_of(text) not in seen


def _ordered_paths(source: str, suffixes: tuple[str, ...]) -> list[str]:
  return sorted(_text_paths(source, suffixes), key=digest_of)


def _text_paths(source: str, suffixes: tuple[str, ...]) -> Iterator[str]:
  for folder, subfolders, names in os.walk(source):
    subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
    for name in names:
      if name.endswith(suffixes) and not name.startswith(_SKIPPED_PREFIX):
        yield os.path.relpath(os.path.join(folder, name), source).replace(os.sep, "/")


def _read_text(path: str) -> str:
  try:
    with open(path, encoding="utf-8", newline="") as file:
      return file.read().replace("\r\n", "\n").replace("\0", "")
  except (OSError, UnicodeDecodeError):
    return ""  # A few files have other encodings, and some systems have links to missing files.
