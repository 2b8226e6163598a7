"""Unified diffs that `git apply` takes, of one file at a time."""

from collections.abc import Iterator
import difflib

_NO_NEWLINE = "\n\\ No newline at end of file\n"


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


def _lines(content: bytes | None) -> list[str]:
  """Splits a file at line feeds only, as git does. `splitlines` would also split at a form feed."""
  *whole, last = (content or b"").decode().split("\n")
  return [*(line + "\n" for line in whole), *([last] if last else [])]


def _ended(lines: Iterator[str]) -> Iterator[str]:
  """Marks a last line without a line feed as git does."""
  for line in lines:
    yield line if line.endswith("\n") else line + _NO_NEWLINE
