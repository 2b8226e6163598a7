"""A MaxText tree on disk, which patch it has, and changing it: everything is checked before anything is written."""

from collections.abc import Mapping
import contextlib
import dataclasses
import os
from pathlib import Path
import shutil

from maxtext_sparse.config import ConfigError
from maxtext_sparse.patching.patchset import all_patches, digest, Patch

APPLIED, NOT_APPLIED, PARTLY, FOREIGN = "applied", "not applied", "partly", "foreign"
_ASIDE = ".maxtext_sparse_patch"


@dataclasses.dataclass(frozen=True)
class Status:
  """What a tree is.

  Attributes:
    state: `applied`, `not applied`, `partly` or `foreign`.
    release: the release that its files belong to; the likeliest one where the tree is foreign.
    applied: patched files.
    modified: files that are neither as released nor as patched.
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

  def apply(self) -> list[str]:
    """Patches what is not patched yet; returns the files changed.

    Raises:
      ConfigError: a target file is locally modified, or leaves the tree through a link.
    """
    self.refuse_modified("apply")
    return self._replace({f.path: f.apply for f in self.patch.files if f.path not in self.status.applied})

  def revert(self) -> list[str]:
    """Restores the released files byte for byte; returns the files changed.

    Raises:
      ConfigError: as for `apply`.
    """
    self.refuse_modified("revert")
    return self._replace({f.path: f.revert for f in self.patch.files if f.path in self.status.applied})

  def read(self, path: str) -> bytes | None:
    """Content of a file below the package, None if absent.

    Raises:
      ConfigError: the path leads out of the tree.
    """
    file = self.root / path
    if file.is_symlink() or not file.resolve().is_relative_to(self.root):
      raise ConfigError(f"{file}: a link, and could lead out of the tree; replace it by a file")
    return file.read_bytes() if file.exists() else None

  def _recognise(self) -> tuple[Patch, Status]:
    candidates = [(patch, self._status(patch)) for patch in all_patches()]
    return min(candidates, key=lambda candidate: len(candidate[1].modified))

  def _status(self, patch: Patch) -> Status:
    digests = {f.path: digest(self.read(f.path)) for f in patch.files}
    applied = tuple(f.path for f in patch.files if digests[f.path] == f.after)
    modified = tuple(f.path for f in patch.files if digests[f.path] not in (f.before, f.after))
    state = FOREIGN if modified else {0: NOT_APPLIED, len(patch.files): APPLIED}.get(len(applied), PARTLY)
    return Status(state, patch.release, applied, modified)

  def refuse_modified(self, verb: str) -> None:
    if self.status.state == FOREIGN:
      raise ConfigError(
        f"{self.root}: cannot {verb}, closest to {self.status.release} but changed in "
        f"{', '.join(self.status.modified)}; restore these files, or use `git apply -3` with the patch file"
      )

  def _replace(self, edits: Mapping) -> list[str]:
    """Replaces files one by one, each atomically; a failure puts those replaced before it back.

    A kill in between leaves whole files of both kinds, which `check` calls partly and `apply` or `revert` completes.
    """
    old = {path: self.read(path) for path in edits}
    new = {path: edit(old[path]) for path, edit in edits.items()}
    self._remove_leftovers()
    done: list[str] = []
    try:
      for path, content in new.items():
        self._write(path, content)
        done.append(path)
    except OSError as error:
      for written in done:
        self._write(written, old[written])
      raise ConfigError(f"{self.root / path}: cannot write ({error.strerror}), the tree is as before") from error
    return done

  def _write(self, path: str, content: bytes | None) -> None:
    file = self.root / path
    if content is None:
      file.unlink()
      return
    # A new file and a rename: package managers hard-link installs to their cache, which must not change.
    aside = file.with_name(file.name + _ASIDE)
    aside.write_bytes(content)
    if file.exists():
      shutil.copymode(file, aside)
    os.replace(aside, file)

  def _remove_leftovers(self) -> None:
    for file in self.patch.files:
      with contextlib.suppress(FileNotFoundError):
        (self.root / (file.path + _ASIDE)).unlink()


def find_package(path: str) -> Path:
  """The package folder in a checkout (`src/maxtext`), a site-packages folder, or given itself.

  Raises:
    ConfigError: there is no MaxText below the path.
  """
  given = Path(path)
  for candidate in (given / "src" / "maxtext", given / "maxtext", given):
    if (candidate / "configs" / "base.yml").is_file() and (candidate / "configs" / "types.py").is_file():
      return candidate.resolve()
  raise ConfigError(f"PATH={path}: no MaxText here, give a checkout (with src/maxtext) or a site-packages folder")
