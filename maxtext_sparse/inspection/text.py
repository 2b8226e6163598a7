"""What `inspect` and `verify` print."""

from typing import Any

from maxtext_sparse.inspection.verify import Verdict
from maxtext_sparse.terminal import console, new_table, print_table, say


def print_verdict(path: str, verdict: Verdict) -> None:
  """A line for each claim, true or not."""
  screen = console()
  for line in verdict.checks:
    say(screen, f"ok: {line}")
  for line in verdict.problems:
    say(screen, f"PROBLEM: {line}")
  say(screen, f"{path}: {'is what it claims to be' if verdict.is_ok else 'is NOT what it claims to be'}")


def print_survey(result: dict[str, Any], comparison: dict[str, Any] | None, files: list[str]) -> None:
  """The matrices of a model, its warnings, and what was drawn."""
  screen = console()
  overlap = {row["name"]: row["jaccard"] for row in comparison["matrices"]} if comparison else {}
  dead = {"dead_rows": "dead rows", "dead_columns": "columns", "dead_heads": "heads"}
  columns = ["matrix", "shape", "density", *dead.values(), *(["overlap"] if overlap else []), "structure"]
  table = new_table(columns, left=["structure"])
  for row in result["matrices"]:
    cells = [
      _short_name(row["name"]),
      "x".join(map(str, row["shape"])),
      f"{row['density']:.2%}",
      *(str(row[key]) if row[key] else "" for key in dead),
      *([_overlap(overlap.get(row["name"]))] if overlap else []),
    ]
    table.add_row(*cells, " ".join(row["structures"]))
  print_table(screen, table)
  left = f"{result['nonzero']:,} of {result['prunable']:,} prunable weights left ({result['density']:.4%})"
  say(screen, f"{result['title']}: {left}")
  for title, densities in (("layer", result["layers"]), ("matrix", result["kinds"])):
    say(screen, f"by {title}: " + ", ".join(f"{name} {density:.2%}" for name, density in densities.items()))
  if comparison:
    say(screen, f"mask overlap with {comparison['title']} (Jaccard): {comparison['jaccard']:.4f}")
  if result["structures"]:
    say(screen, f"every matrix is {', '.join(result['structures'])}")
  for line in result["warnings"]:
    say(screen, f"warning: {line}")
  for path in files:
    say(screen, path)


def _short_name(name: str) -> str:
  """Without the words that all names have, so that the table stays narrow."""
  return name.replace("/kernel", "").removesuffix(".weight").removeprefix("model.").removeprefix("decoder/")


def _overlap(value: float | None) -> str:
  return "-" if value is None else f"{value:.3f}"
