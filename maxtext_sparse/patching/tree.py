"""Recognises and changes a MaxText tree on disk. Everything is checked before anything is written."""

from collections.abc import Mapping
import dataclasses
import os
from pathlib import Path
import shutil
from typing import Literal

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.patching.patchset import all_patches, digest, Patch, unified_diff

APPLIED, NOT_APPLIED, PARTLY, FOREIGN = "applied", "not applied", "partly", "foreign"
Verb = Literal["apply", "revert"]
# Ending of the new files while they are staged beside the old ones.
_ASIDE = ".maxtext_sparse_patch"


@dataclasses.dataclass(frozen=True)
class Status:
  """What a tree is.

  Attributes:
    state: `applied`, `not applied`, `partly` or `foreign`.
    release: the release that its files belong to, or the most similar one if the tree is foreign.
    applied: the patched files.
    modified: the files that are neither as released nor as patched.
  """

  state: str
  release: str
  applied: tuple[str, ...]
  modified: tuple[str, ...]


class Tree:
  """The `maxtext` package folder of a checkout or an install."""

  def __init__(self, path: str):
    self.root = find_package(path)
    self.patch, self.status = self._recognise()

  def change(self, verb: Verb) -> list[str]:
    """Applies or reverts the patch. A tree that is patched in part is completed.

    Returns:
      The files that changed.

    Raises:
      ConfigError: a target file is locally modified or leaves the tree through a link, or a file cannot be written. The
        message says in which state the tree is then.
    """
    edits = self._edits(verb)
    try:
      self._remove_staged()
      self._replace(edits)
    except OSError as error:
      is_as_before = self._recognise()[1] == self.status
      state = "the tree is as before" if is_as_before else "the tree is changed in part, call the same command again"
      raise ConfigError(f"{error.filename or self.root}: cannot write ({error.strerror}), {state}") from error
    return list(edits)

  def preview(self, verb: Verb) -> dict[str, str]:
    """Returns what `change` would do: path -> diff that `git apply` takes in a checkout, of each file that would change.

    Raises:
      ConfigError: a target file is locally modified or leaves the tree through a link.
    """
    edits = self._edits(verb)
    return {path: unified_diff(f"src/maxtext/{path}", self.read(path), content) for path, content in edits.items()}

  def describe(self) -> str:
    """Returns one line with the place, the release and the state of the tree, and the names of modified files."""
    detail = f", changed: {', '.join(self.status.modified)}" if self.status.modified else ""
    return f"{self.root}: MaxText {self.status.release}, {self.status.state}{detail}"

  def read(self, path: str) -> bytes | None:
    """Returns the content of a file below the package, or None if there is no such file.

    Raises:
      ConfigError: the path leads out of the tree, or the file cannot be read.
    """
    file = self.root / path
    if file.is_symlink() or not file.resolve().is_relative_to(self.root):
      raise ConfigError(f"{file}: is a link and could lead out of the tree, replace it by a file")
    try:
      return file.read_bytes() if file.exists() else None
    except OSError as error:
      raise ConfigError(f"{file}: cannot read ({error.strerror})") from error

  def _recognise(self) -> tuple[Patch, Status]:
    candidates = [(patch, self._status(patch)) for patch in all_patches()]
    return min(candidates, key=lambda candidate: len(candidate[1].modified))

  def _status(self, patch: Patch) -> Status:
    digests = {f.path: digest(self.read(f.path)) for f in patch.files}
    applied = tuple(f.path for f in patch.files if digests[f.path] == f.after)
    modified = tuple(f.path for f in patch.files if digests[f.path] not in (f.before, f.after))
    state = FOREIGN if modified else {0: NOT_APPLIED, len(patch.files): APPLIED}.get(len(applied), PARTLY)
    return Status(state, patch.release, applied, modified)

  def _edits(self, verb: Verb) -> dict[str, bytes | None]:
    """Returns path -> new content of each file that changes. None removes the file."""
    if self.status.state == FOREIGN:
      raise ConfigError(
        f"{self.root}: cannot {verb}, the files are closest to {self.status.release} but changed in "
        f"{', '.join(self.status.modified)}; restore these files, or use `git apply -3` with the patch file"
      )
    if verb == "apply":
      return {file.path: file.apply(self.read(file.path)) for file in self.patch.files if not self._is_applied(file.path)}
    applied = [file for file in self.patch.files if self._is_applied(file.path)]
    return {file.path: file.revert(self.read(file.path) or b"") for file in applied}

  def _is_applied(self, path: str) -> bool:
    return path in self.status.applied

  def _replace(self, edits: Mapping[str, bytes | None]) -> None:
    """Writes all new files beside the old ones and renames them only then.

    A full disk is met while nothing has changed yet. If a rename fails, the earlier ones are undone. A kill in between
    leaves whole files of both kinds, which `check` calls partly and which `apply` or `revert` completes.
    """
    old = {path: self.read(path) for path in edits}
    done: list[str] = []
    try:
      for path, content in edits.items():
        self._stage(path, content)
      for path, content in edits.items():
        self._commit(path, content)
        done.append(path)
    except OSError:
      self._remove_staged()
      for path in done:
        self._stage(path, old[path])
        self._commit(path, old[path])
      raise

  def _stage(self, path: str, content: bytes | None) -> None:
    """Writes a new file. Package managers hard-link installs to their cache, so the old file itself must not change."""
    if content is not None:
      self._staged(path).write_bytes(content)
      if (self.root / path).exists():
        shutil.copymode(self.root / path, self._staged(path))

  def _commit(self, path: str, content: bytes | None) -> None:
    if content is None:
      (self.root / path).unlink()
    else:
      os.replace(self._staged(path), self.root / path)

  def _staged(self, path: str) -> Path:
    return self.root / (path + _ASIDE)

  def _remove_staged(self) -> None:
    """Removes what a failure, or an earlier process that was killed, has left."""
    for file in self.patch.files:
      if self._staged(file.path).exists():
        self._staged(file.path).unlink()


def find_package(path: str) -> Path:
  """Finds the package folder in a checkout (`src/maxtext`) or in a site-packages folder, or takes `path` itself as it.

  Raises:
    ConfigError: there is no MaxText at the path, or it may not be read.
  """
  given = Path(path)
  try:
    for candidate in (given / "src" / "maxtext", given / "maxtext", given):
      if (candidate / "configs" / "base.yml").is_file() and (candidate / "configs" / "types.py").is_file():
        return candidate.resolve()
  except OSError as error:
    raise ConfigError(f"PATH={path}: cannot read ({error.strerror})") from error
  raise ConfigError(f"PATH={path}: no MaxText here, give a checkout (with src/maxtext) or a site-packages folder")
