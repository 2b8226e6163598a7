"""Reads the patch files and applies their hunks in memory. A patch fits exactly or not at all: no fuzz, no offsets.

A patch file is a header that `git apply` skips, with one line `path before after` per file (SHA-256, `-` where the file
is not there), then a unified diff.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import hashlib
from pathlib import Path
import re

_HEADER_LINE = re.compile(r"^  (src/maxtext/\S+) ([0-9a-f]{64}|-) ([0-9a-f]{64}|-)$")
_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_ABSENT = "-"


@dataclasses.dataclass(frozen=True)
class FilePatch:
  """One file of a patch.

  Attributes:
    path: below the package folder, e.g. `configs/base.yml`.
    before: SHA-256 of the unpatched file, `-` if the patch creates it.
    after: SHA-256 of the patched file.
    hunks: (first line before, first line after, diff lines) each.
  """

  path: str
  before: str
  after: str
  hunks: tuple[tuple[int, int, tuple[str, ...]], ...]

  def apply(self, content: bytes | None) -> bytes:
    """The patched content of a file whose digest is `before`."""
    patched = "".join(self._patched(_lines(content), reverse=False)).encode()
    assert digest(patched) == self.after, f"{self.path}: the patch file and its digests disagree"
    return patched

  def revert(self, content: bytes) -> bytes | None:
    """The original content of a file whose digest is `after`; None if the patch created it."""
    if self.before == _ABSENT:
      return None
    original = "".join(self._patched(_lines(content), reverse=True)).encode()
    assert digest(original) == self.before, f"{self.path}: the patch file and its digests disagree"
    return original

  def _patched(self, lines: Sequence[str], reverse: bool) -> Iterator[str]:
    position = 0
    removed, added = ("+", "-") if reverse else ("-", "+")
    for first_before, first_after, diff in self.hunks:
      start = max(0, (first_after if reverse else first_before) - 1)
      yield from lines[position:start]
      position = start + sum(1 for line in diff if line[0] in (" ", removed))
      yield from (line[1:] for line in diff if line[0] in (" ", added))
    yield from lines[position:]


@dataclasses.dataclass(frozen=True)
class Patch:
  """One patch file: a MaxText release (or `main` at one commit) and what changes in it."""

  release: str
  files: tuple[FilePatch, ...]
  text: str


def digest(content: bytes | None) -> str:
  return _ABSENT if content is None else hashlib.sha256(content).hexdigest()


@functools.cache
def all_patches() -> tuple[Patch, ...]:
  """Every patch that ships with the package, by release."""
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
  return content.decode().splitlines(keepends=True) if content else []


def _patches_folder() -> Path:
  """Inside an installed wheel, or at the top of a checkout."""
  package = Path(__file__).parents[1]
  inside = package / "patches"
  return inside if inside.is_dir() else package.parent / "patches"
