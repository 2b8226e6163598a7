"""`maxtext-sparse doctor`: whether the plugin fits this environment, hook by hook."""

from typing import Annotated, Any

import typer

from maxtext_sparse.errors import one_line_errors
from maxtext_sparse.terminal import new_table, print_json


def doctor(
  as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object only.")] = False,
) -> None:
  """Checks MaxText, jax and every hook; exit status 1 when training would not work.

  Example: maxtext-sparse doctor
  """
  from maxtext_sparse.hooks.diagnosis import diagnose

  with one_line_errors():
    report = diagnose()
  print_json(report) if as_json else _print(report)
  raise typer.Exit(0 if report["works"] else 1)


def _print(report: dict[str, Any]) -> None:
  from rich.console import Console

  console = Console()
  console.print(f"MaxText {report['maxtext_version']} in {report['maxtext_path']}, patch set {report['patch']}")
  console.print(f"jax {report['jax_version']}, {report['devices']}")
  table = new_table(["hook", "fits", "state"], left=["fits", "state"], title="Hooks")
  for hook in report["hooks"]:
    table.add_row(hook["target"], "yes" if hook["signature_as_expected"] else "NO", hook["state"])
  console.print(table)
  for hint in report["hints"]:
    console.print(f"- {hint}", markup=False)
  console.print("Training works." if report["works"] else "Training would not work.")
