"""`maxtext-sparse doctor`, `keys` and `patch`: the plugin itself and the MaxText that it finds here."""

import dataclasses
from typing import Annotated

import typer

from maxtext_sparse.cli.help import add, new_group, TOOLS
from maxtext_sparse.cli.options import Json
from maxtext_sparse.errors import ConfigError, one_line_errors
from maxtext_sparse.terminal import avoid_accelerators, console, print_json

_Path = Annotated[
  str, typer.Argument(metavar="PATH", help="A checkout, with the folder src/maxtext, or a site-packages folder.")
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change as a diff, and change nothing.")]


def register(app: typer.Typer) -> None:
  """Adds the commands of this module."""
  add(app, doctor, TOOLS)
  add(app, keys, TOOLS)
  patches = new_group("Puts the sparsity keys into the files of a MaxText checkout or install, or takes them out again.")
  for command in (apply, revert, check):
    add(patches, command)
  app.add_typer(patches, name="patch", rich_help_panel=TOOLS)


def doctor(as_json: Json = False) -> None:
  """Checks that MaxText, jax and the plugin fit together, without touching an accelerator.

  The exit status is 1 if training would not work.

  Example: maxtext-sparse doctor
  """
  avoid_accelerators()
  from maxtext_sparse.hooks.diagnosis import diagnose
  from maxtext_sparse.hooks.text import print_diagnosis

  with one_line_errors():
    report = diagnose()
  print_json(report) if as_json else print_diagnosis(report, console(width=80))
  raise typer.Exit(0 if report["works"] else 1)


def keys(
  as_json: Json = False,
  as_yaml: Annotated[bool, typer.Option("--yaml", help="Print a commented block to paste into a config file.")] = False,
) -> None:
  """Lists the sparsity keys with their defaults and meanings.

  Keys of --json: keys[], each with key, default, values, meaning.

  Example: maxtext-sparse keys --yaml
  """
  from maxtext_sparse.key_table import describe_keys, print_keys, to_yaml

  with one_line_errors():
    if as_json and as_yaml:
      raise ConfigError("--yaml: --json is given too, keep one")
  if as_json:
    print_json({"keys": [key.to_dict() for key in describe_keys()]})
  elif as_yaml:
    print(to_yaml(), end="")
  else:
    print_keys(console(width=80))


def apply(path: _Path, dry_run: _DryRun = False, as_json: Json = False) -> None:
  """Applies the patch that belongs to the MaxText release at PATH.

  If it is applied already, nothing changes.

  Keys of --json: path, release, changed[]; with --dry-run path, release, verb, would_change[], diff.

  Example: maxtext-sparse patch apply ~/maxtext
  """
  from maxtext_sparse.patching.text import change

  with one_line_errors():
    change(path, "apply", dry_run, as_json)


def revert(path: _Path, dry_run: _DryRun = False, as_json: Json = False) -> None:
  """Takes the patch out, so that every file is again as it was released.

  Keys of --json: path, release, changed[]; with --dry-run path, release, verb, would_change[], diff.

  Example: maxtext-sparse patch revert ~/maxtext
  """
  from maxtext_sparse.patching.text import change

  with one_line_errors():
    change(path, "revert", dry_run, as_json)


def check(path: _Path, as_json: Json = False) -> None:
  """Says whether the patch is applied.

  The exit status is 0 if it is, and 1 otherwise.

  Example: maxtext-sparse patch check ~/maxtext
  """
  from maxtext_sparse.patching.tree import APPLIED, Tree

  with one_line_errors():
    tree = Tree(path)
  if as_json:
    print_json({"path": str(tree.root)} | dataclasses.asdict(tree.status))
  else:
    print(tree.describe())
  raise typer.Exit(0 if tree.status.state == APPLIED else 1)
