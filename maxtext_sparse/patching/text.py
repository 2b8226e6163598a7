"""Changes a tree, or shows what would change, and prints what came out."""

from maxtext_sparse.patching.tree import Tree, Verb
from maxtext_sparse.terminal import print_json


def change(path: str, verb: Verb, is_dry_run: bool, as_json: bool) -> None:
  """Applies or reverts the patch and prints the result.

  Args:
    path: a checkout or a site-packages folder.
    verb: what to do.
    is_dry_run: show the diff and change nothing.
    as_json: print one JSON object.

  Raises:
    ConfigError: as for `Tree`.
  """
  tree = Tree(path)
  about = {"path": str(tree.root), "release": tree.status.release}
  if is_dry_run:
    diffs = tree.preview(verb)
    diff = "".join(diffs.values())
    if as_json:
      print_json(about | {"verb": verb, "would_change": list(diffs), "diff": diff})
    else:
      print(diff or f"{tree.describe()}, nothing would change\n", end="")
    return
  changed = tree.change(verb)
  if as_json:
    print_json(about | {"changed": changed})
  else:
    print(f"{tree.root}: MaxText {tree.status.release}, {verb}: {len(changed)} files changed")
