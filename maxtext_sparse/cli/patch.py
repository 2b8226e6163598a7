"""`maxtext-sparse patch apply | revert | check PATH`."""

import dataclasses
from typing import Annotated

import typer

from maxtext_sparse.errors import one_line_errors
from maxtext_sparse.terminal import print_json

patch_app = typer.Typer(
  no_args_is_help=True, rich_markup_mode=None, help="Sparsity keys native in a MaxText checkout or install."
)

_Path = Annotated[str, typer.Argument(help="A checkout (with src/maxtext) or a site-packages folder.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the diff and change nothing.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@patch_app.command()
def apply(path: _Path, dry_run: _DryRun = False, as_json: _Json = False) -> None:
  """Applies the patch of the release that the tree is; does nothing if it has it.

  Example: maxtext-sparse patch apply ~/maxtext
  """
  _change(path, "apply", dry_run, as_json)


@patch_app.command()
def revert(path: _Path, dry_run: _DryRun = False, as_json: _Json = False) -> None:
  """Restores the released files, byte for byte.

  Example: maxtext-sparse patch revert ~/maxtext
  """
  _change(path, "revert", dry_run, as_json)


@patch_app.command()
def check(path: _Path, as_json: _Json = False) -> None:
  """Says whether the patch is applied; exit status 0 if it is, 1 if not.

  Example: maxtext-sparse patch check ~/maxtext
  """
  from maxtext_sparse.patching.tree import APPLIED, Tree

  with one_line_errors():
    tree = Tree(path)
  status = tree.status
  if as_json:
    print_json({"path": str(tree.root)} | dataclasses.asdict(status))
  else:
    detail = f", changed: {', '.join(status.modified)}" if status.modified else ""
    print(f"{tree.root}: MaxText {status.release}, {status.state}{detail}")
  raise typer.Exit(0 if status.state == APPLIED else 1)


def _change(path: str, verb: str, dry_run: bool, as_json: bool) -> None:
  from maxtext_sparse.patching.tree import Tree

  with one_line_errors():
    tree = Tree(path)
    if dry_run:
      tree.refuse_modified(verb)
      print(tree.patch.text, end="")
      return
    changed = getattr(tree, verb)()
  if as_json:
    print_json({"path": str(tree.root), "release": tree.status.release, "changed": changed})
  else:
    print(f"{tree.root}: MaxText {tree.status.release}, {verb}: {len(changed)} files changed")
