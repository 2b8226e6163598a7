"""Prints the report of `doctor`."""

from typing import Any

from rich.console import Console

from maxtext_sparse.terminal import new_table, print_table

# Width of `fits`, `state` and the gaps.
_OTHER_COLUMNS = 20


def print_diagnosis(report: dict[str, Any], console: Console) -> None:
  """Prints what `diagnose` found: versions, one line for each hook, and hints."""
  console.print(f"MaxText {report['maxtext_version']}, patch set {report['patch']}", markup=False)
  console.print(f"in {report['maxtext_path']}", markup=False)
  console.print(f"jax {report['jax_version']}, {report['devices']}", markup=False)
  table = new_table(["hook", "fits", "state"], left=["fits", "state"], title="Hooks", wrapped=["hook", "state"])
  for hook in report["hooks"]:
    name = hook["target"]
    if len(name) + _OTHER_COLUMNS > console.width:  # a line for the module, and one for what is in it
      name = name.replace(":", ":\n  ")
    table.add_row(name, "yes" if hook["signature_as_expected"] else "NO", hook["state"])
  print_table(console, table)
  for hint in report["hints"]:
    console.print(f"- {hint}", markup=False)
  console.print("Training works." if report["works"] else "Training would not work.")
