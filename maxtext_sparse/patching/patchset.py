"""Unified diffs: reads the patch files, applies their hunks in memory, and writes the diff of a change.

A patch fits exactly or not at all, without fuzz or offsets.

A patch file begins with a header that `git apply` skips. The header has one line `path before after` per file, where
`before` and `after` are SHA-256 digests, or `-` if the file does not exist. A line `---` and a unified diff follow.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import difflib
import functools
import hashlib
from pathlib import Path
import re

_HEADER_LINE = re.compile(r"^  (src/maxtext/\S+) ([0-9a-f]{64}|-) ([0-9a-f]{64}|-)$")
_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_ABSENT = "-"
_NO_NEWLINE = "\n\\ No newline at end of file\n"


@dataclasses.dataclass(frozen=True)
class FilePatch:
  """One file of a patch.

  Attributes:
    path: path below the package folder, such as `configs/base.yml`.
    before: SHA-256 of the unpatched file, `-` if the patch creates the file.
    after: SHA-256 of the patched file.
    hunks: each is (its first line before, its first line after, its diff lines). Lines count from 1.
  """

  path: str
  before: str
  after: str
  hunks: tuple[tuple[int, int, tuple[str, ...]], ...]

  def apply(self, content: bytes | None) -> bytes:
    """Returns the patched content of a file whose digest is `before`."""
    patched = "".join(self._patched(_lines(content), reverse=False)).encode()
    assert digest(patched) == self.after, f"{self.path}: the patch file and its digests disagree"
    return patched

  def revert(self, content: bytes) -> bytes | None:
    """Returns the original content of a file whose digest is `after`, or None if the patch created the file."""
    if self.before == _ABSENT:
      return None
    original = "".join(self._patched(_lines(content), reverse=True)).encode()
    assert digest(original) == self.before, f"{self.path}: the patch file and its digests disagree"
    return original

  def _patched(self, lines: Sequence[str], reverse: bool) -> Iterator[str]:
    position = 0  # number of lines that have been read
    removed, added = ("+", "-") if reverse else ("-", "+")
    for first_before, first_after, diff in self.hunks:
      start = max(0, (first_after if reverse else first_before) - 1)
      yield from lines[position:start]
      position = start + sum(1 for line in diff if line[0] in (" ", removed))
      yield from (line[1:] for line in diff if line[0] in (" ", added))
    yield from lines[position:]


@dataclasses.dataclass(frozen=True)
class Patch:
  """One patch file.

  Attributes:
    release: the MaxText release that it fits, or `main` for one commit of the main branch.
    files: what changes, file by file.
    text: the whole patch file.
  """

  release: str
  files: tuple[FilePatch, ...]
  text: str


def digest(content: bytes | None) -> str:
  """Returns the SHA-256 of a file's content in hexadecimal, `-` for a file that does not exist."""
  return _ABSENT if content is None else hashlib.sha256(content).hexdigest()


@functools.cache
def all_patches() -> tuple[Patch, ...]:
  """Returns every patch that ships with the package, sorted by release."""
  return tuple(parse(path) for path in sorted(_patches_folder().glob("maxtext-*.patch")))


def parse(path: Path) -> Patch:
  """Reads one patch file."""
  text = path.read_text(encoding="utf-8")
  header, _, diff = text.partition("\n---\n")
  digests = {m[1]: (m[2], m[3]) for m in map(_HEADER_LINE.match, header.splitlines()) if m}
  hunks = _hunks_by_file(diff)
  assert hunks.keys() == digests.keys(), f"{path.name}: header and diff name different files"
  files = tuple(FilePatch(name.removeprefix("src/maxtext/"), *digests[name], tuple(hunks[name])) for name in hunks)
  return Patch(path.stem.removeprefix("maxtext-"), files, text)


def unified_diff(path: str, before: bytes | None, after: bytes | None) -> str:
  """Returns the diff of one file, '' if nothing changes. None stands for a file that does not exist.

  Args:
    path: path of the file in the diff, without the leading `a/` and `b/`.
    before: content of the file now.
    after: its content after the change.
  """
  if before == after:
    return ""
  lines = difflib.unified_diff(
    _lines(before),
    _lines(after),
    "/dev/null" if before is None else f"a/{path}",
    "/dev/null" if after is None else f"b/{path}",
  )
  mode = "new file mode 100644\n" if before is None else "deleted file mode 100644\n" if after is None else ""
  return f"diff --git a/{path} b/{path}\n{mode}" + "".join(_ended(lines))


def _hunks_by_file(diff: str) -> dict[str, list[tuple[int, int, tuple[str, ...]]]]:
  files: dict[str, list[tuple[int, int, tuple[str, ...]]]] = {}
  for section in re.split(r"^diff --git .*\n", diff, flags=re.MULTILINE)[1:]:
    lines = section.splitlines(keepends=True)
    (name,) = [line[6:].rstrip("\n") for line in lines if line.startswith("+++ b/")]
    starts = [i for i, line in enumerate(lines) if _HUNK.match(line)]
    files[name] = [_hunk(lines[i:j]) for i, j in zip(starts, [*starts[1:], len(lines)])]
  return files


def _hunk(lines: Sequence[str]) -> tuple[int, int, tuple[str, ...]]:
  match = _HUNK.match(lines[0])
  assert match
  return int(match[1]), int(match[3]), tuple(lines[1:])


def _lines(content: bytes | None) -> list[str]:
  """Splits a file at line feeds only, as git does. `splitlines` would also split at a form feed."""
  *whole, last = (content or b"").decode().split("\n")
  return [*(line + "\n" for line in whole), *([last] if last else [])]


def _ended(lines: Iterator[str]) -> Iterator[str]:
  """Marks a last line without a line feed as git does."""
  for line in lines:
    yield line if line.endswith("\n") else line + _NO_NEWLINE


def _patches_folder() -> Path:
  """The folder is inside the package in an installed wheel, and beside the package in a checkout."""
  package = Path(__file__).parents[1]
  inside = package / "patches"
  return inside if inside.is_dir() else package.parent / "patches"
