"""What `export` and `import` print."""

from typing import Any

from maxtext_sparse.export.write import Export
from maxtext_sparse.terminal import console, new_table, say, short
from maxtext_sparse.weights.safetensors import DTYPES


def print_export(out: str, result: Export) -> None:
  """The figures of a finished export, its sizes, and the notes."""
  screen = console()
  claims = result.certificate
  table = new_table(["", ""], left=["", ""])
  for label, value in _rows(out, claims, result):
    table.add_row(label, value)
  screen.print(table)
  for note in result.notes:
    say(screen, f"note: {note}")
  say(screen, f"next: maxtext-sparse verify {out}")


def _rows(out: str, claims: dict[str, Any], result: Export) -> list[tuple[str, str]]:
  share = result.weight_bytes / result.dense_bytes
  linear_dense = claims["prunable"] * DTYPES[claims["dtype"]].itemsize
  name = claims["format"] + (" with zstd" if claims["is_compressed"] else "")
  return [
    ("folder", out),
    ("parameters", f"{claims['total']:,}"),
    ("prunable weights", f"{claims['prunable']:,}"),
    ("not zero", f"{claims['nonzero']:,} ({claims['density']:.4%})"),
    ("structure", ", ".join(claims["structures"]) or "none"),
    ("weights", f"{claims['dtype']}, {name}: {short(result.weight_bytes)} bytes in {len(claims['files'])} files"),
    ("against dense", f"{share:.3f} of {short(result.dense_bytes)} bytes in the same dtype"),
    ("linear layers alone", f"{result.linear_bytes / linear_dense:.3f} of {short(linear_dense)} bytes"),
  ]
