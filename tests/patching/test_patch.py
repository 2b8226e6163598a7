"""The patch set on a copy of the installed MaxText: recognised, applied, taken off byte for byte, or refused."""

import importlib.util
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.patching.patchset import all_patches, digest
from maxtext_sparse.patching.tree import APPLIED, find_package, FOREIGN, NOT_APPLIED, PARTLY, Tree
from tests.disks import fill, mounted, small_disk

__all__ = ["mounted"]

pytestmark = pytest.mark.release

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def released():
  spec = importlib.util.find_spec("maxtext")
  assert spec and spec.submodule_search_locations
  return Path(spec.submodule_search_locations[0])


@pytest.fixture(params=["checkout", "install"])
def tree(request, released, tmp_path):
  """The patch's target files in the layout of a checkout, or of site-packages."""
  root = tmp_path / ("src/maxtext" if request.param == "checkout" else "maxtext")
  for file in next(p for p in all_patches() if p.release == Tree(str(released)).status.release).files:
    (root / file.path).parent.mkdir(parents=True, exist_ok=True)
    if (released / file.path).exists():
      shutil.copy(released / file.path, root / file.path)
  return tmp_path


def contents(folder):
  return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def command(*args):
  done = subprocess.run(
    [sys.executable, "-m", "maxtext_sparse", "patch", *args], capture_output=True, text=True, cwd=REPO
  )
  return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("patch", all_patches(), ids=lambda patch: patch.release)
def test_each_patch_adds_at_most_66_lines_and_says_why_and_for_what(patch):
  header, _, diff = patch.text.partition("\n---\n")
  added = [line for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
  assert len(added) <= 66
  assert patch.release.removeprefix("main") in header and "All logic is in the package" in header


def test_there_is_a_patch_for_every_supported_release_and_for_main():
  from maxtext_sparse.hooks import SUPPORTED_VERSIONS

  assert {patch.release for patch in all_patches()} == {*SUPPORTED_VERSIONS, "main"}


def test_the_installed_release_is_recognised_from_its_files(tree, released):
  import importlib.metadata

  status = Tree(str(tree)).status
  assert (status.state, status.release) == (NOT_APPLIED, importlib.metadata.version("maxtext"))


def test_apply_is_idempotent_and_revert_restores_every_byte(tree):
  before = contents(tree)
  assert len(Tree(str(tree)).change("apply")) == 6
  assert Tree(str(tree)).status.state == APPLIED
  patched = contents(tree)
  assert Tree(str(tree)).change("apply") == [] and contents(tree) == patched
  assert len(Tree(str(tree)).change("revert")) == 6
  assert contents(tree) == before
  assert Tree(str(tree)).change("revert") == [] and contents(tree) == before


def test_plain_git_apply_gives_the_same_bytes(tree):
  patch_file = REPO / "patches" / f"maxtext-{Tree(str(tree)).status.release}.patch"
  strip = "-p1" if (tree / "src").exists() else "-p2"
  subprocess.run(
    ["git", "apply", strip, str(patch_file)], cwd=tree, check=True, env=os.environ | {"GIT_DIR": "/dev/null"}
  )
  assert Tree(str(tree)).status.state == APPLIED
  Tree(str(tree)).change("revert")
  assert Tree(str(tree)).status.state == NOT_APPLIED


def test_a_half_applied_tree_is_told_and_completed_both_ways(tree):
  before = contents(tree)
  Tree(str(tree)).change("apply")
  patched = contents(tree)
  for complete, expected in (("apply", patched), ("revert", before)):
    for path, content in list(before.items())[:2]:
      (tree / path).write_bytes(content)
    half = Tree(str(tree))
    assert half.status.state == PARTLY and len(half.status.applied) == 4
    half.change(complete)
    assert contents(tree) == expected


def test_locally_modified_files_are_refused_by_name_and_nothing_is_written(tree):
  file = find_package(str(tree)) / "configs" / "types.py"
  file.write_text(file.read_text() + "# mine\n")
  before = contents(tree)
  for verb in ("apply", "revert"):
    with pytest.raises(ConfigError, match=r"changed in configs/types\.py; restore") as error:
      Tree(str(tree)).change(verb)
    assert "\n" not in str(error.value)
  assert contents(tree) == before and Tree(str(tree)).status.state == FOREIGN


def test_a_write_that_fails_half_way_leaves_the_tree_as_before(tree):
  before = contents(tree)
  target = Tree(str(tree))
  # A folder where the fourth file's replacement would be staged: the write fails for root too.
  blocker = target.root / f"{target.patch.files[3].path}.maxtext_sparse_patch"
  blocker.mkdir()
  with pytest.raises(ConfigError, match="the tree is as before"):
    target.change("apply")
  blocker.rmdir()
  assert contents(tree) == before


def test_a_rename_that_fails_half_way_is_undone(tree):
  before = contents(tree)
  target = Tree(str(tree))
  # The last of the changes removes a file that is not there.
  with pytest.raises(FileNotFoundError):
    target._replace(target._edits("apply") | {"missing.py": None})
  assert contents(tree) == before


def test_a_full_disk_leaves_no_file_behind(tree):
  before = contents(tree)
  # The system refuses every write beyond 4 kB, as a full disk does: base.yml is longer.
  limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
  code = limit + "from maxtext_sparse.cli import main; main()"
  done = subprocess.run(
    [sys.executable, "-c", code, "patch", "apply", str(tree)], capture_output=True, text=True, cwd=REPO
  )
  assert done.returncode == 2 and done.stderr.count("\n") == 1 and "the tree is as before" in done.stderr
  assert contents(tree) == before


def test_a_full_file_system_leaves_no_file_behind(tree, mounted, tmp_path_factory):
  disk = small_disk(mounted, tmp_path_factory.mktemp("disks") / "disk", megabytes=2)
  shutil.copytree(tree, disk / "tree")
  fill(disk)
  before = contents(disk)
  for words in (["apply"], ["apply", "--json"]):
    status, shown, error = command(*words, str(disk / "tree"))
    assert (status, shown, error.count("\n")) == (2, "", 1)
    assert "cannot write (No space left on device), the tree is as before" in error
    assert contents(disk) == before
  (disk / "filler").unlink()
  assert command("apply", str(disk / "tree"))[0] == 0


def test_a_read_only_file_system_leaves_no_file_behind(tree, mounted):
  before = contents(tree)
  mounted(tree, "--bind", str(tree))
  mounted(tree, "-o", "remount,bind,ro")
  status, shown, error = command("apply", str(tree))
  assert (status, shown, error.count("\n")) == (2, "", 1)
  assert "cannot write (Read-only file system), the tree is as before" in error
  assert command("apply", str(tree), "--dry-run")[0] == 0 and command("check", str(tree))[0] == 1
  assert contents(tree) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_folder_that_may_not_be_written_to_keeps_its_files(tree):
  """Another user meets in root's folders what everyone meets on a read-only mount."""
  before = contents(tree)
  # All that the command reads of the package is read before it is another user, who may not see the package.
  code = "import os; from maxtext_sparse.cli import main; from maxtext_sparse.patching.tree import all_patches; "
  code += "all_patches(); os.setuid(65534); main()"
  for folder in (tree, *tree.parents[:2]):  # pytest makes these for its own user alone
    folder.chmod(0o755)
  done = subprocess.run(
    [sys.executable, "-c", code, "patch", "apply", str(tree)], capture_output=True, text=True, cwd=REPO
  )
  assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Permission denied" in done.stderr
  assert contents(tree) == before


def test_leftovers_of_a_killed_apply_are_removed(tree):
  before = contents(tree)
  (find_package(str(tree)) / "configs" / "base.yml.maxtext_sparse_patch").write_text("half")
  Tree(str(tree)).change("apply")
  Tree(str(tree)).change("revert")
  assert contents(tree) == before


def test_links_are_never_followed_out_of_the_tree(tree, tmp_path_factory):
  outside = tmp_path_factory.mktemp("outside") / "types.py"
  file = find_package(str(tree)) / "configs" / "types.py"
  shutil.move(file, outside)
  file.symlink_to(outside)
  content = outside.read_bytes()
  with pytest.raises(ConfigError, match="a link"):
    Tree(str(tree)).change("apply")
  assert outside.read_bytes() == content


def test_hard_linked_files_of_a_package_cache_do_not_change(tree, tmp_path_factory):
  cache = tmp_path_factory.mktemp("cache") / "base.yml"
  file = find_package(str(tree)) / "configs" / "base.yml"
  os.link(file, cache)
  content = digest(cache.read_bytes())
  Tree(str(tree)).change("apply")
  assert digest(cache.read_bytes()) == content


def test_dry_runs_show_diffs_that_git_applies_and_change_nothing(tree, released):
  """The diffs are those of a checkout, so git applies them there."""
  before = contents(tree)
  for verb in ("apply", "revert"):
    status, shown, _ = command(verb, str(tree), "--dry-run")
    untouched = contents(tree)
    assert status == 0 and "diff --git a/src/maxtext/configs/base.yml" in shown
    changed = Tree(str(tree)).change(verb)
    expected = contents(tree)
    restore(tree, untouched)
    strip = "-p1" if (tree / "src").exists() else "-p2"
    git = ["git", "apply", strip, "-"]
    subprocess.run(git, cwd=tree, check=True, input=shown, text=True, env=os.environ | {"GIT_DIR": "/dev/null"})
    assert len(changed) == 6 and contents(tree) == expected
  assert contents(tree) == before


def restore(folder, files):
  for path in contents(folder):
    if path not in files:
      (folder / path).unlink()
  for path, content in files.items():
    (folder / path).write_bytes(content)


def test_a_dry_run_with_nothing_to_do_says_so(tree):
  assert command("revert", str(tree), "--dry-run")[1].endswith("nothing would change\n")
  Tree(str(tree)).change("apply")
  assert command("apply", str(tree), "--dry-run")[1].endswith("nothing would change\n")


def test_a_dry_run_prints_json_alone(tree):
  status, shown, _ = command("apply", str(tree), "--dry-run", "--json")
  content = json.loads(shown)
  assert status == 0 and shown.count("\n") == 1
  assert len(content["would_change"]) == 6 and content["diff"].startswith("diff --git a/src/maxtext/configs/base.yml")
  assert content["verb"] == "apply" and content["release"] == Tree(str(tree)).status.release


def test_the_commands_exit_statuses_and_output(tree, tmp_path_factory):
  before = contents(tree)
  assert command("check", str(tree))[0] == 1
  status, shown, _ = command("apply", str(tree), "--dry-run")
  assert status == 0 and "diff --git a/src/maxtext/configs/base.yml" in shown and contents(tree) == before
  assert command("apply", str(tree))[0] == 0
  status, shown, _ = command("check", str(tree), "--json")
  assert status == 0 and json.loads(shown)["state"] == "applied"
  assert command("revert", str(tree))[0] == 0
  status, _, error = command("check", str(tmp_path_factory.mktemp("empty")))
  assert status == 2 and error.startswith("maxtext-sparse: error: PATH=") and error.count("\n") == 1
