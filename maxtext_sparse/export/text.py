"""What `export` and `import` print."""

from typing import Any

from maxtext_sparse.export.write import Export
from maxtext_sparse.terminal import console, new_table, say
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
  linear_dense = claims["prunable"] * DTYPES[claims["dtype"]].itemsize
  name = claims["format"] + (" with zstd" if claims["is_compressed"] else "")
  num_files = len(claims["files"])
  return [
    ("folder", out),
    ("parameters", f"{claims['total']:,}"),
    ("prunable weights", f"{claims['prunable']:,}"),
    ("not zero", f"{claims['nonzero']:,} ({claims['density']:.4%})"),
    ("structure", ", ".join(claims["structures"]) or "none"),
    ("weights", f"{claims['dtype']}, {name}, in {num_files} file{'s' if num_files > 1 else ''}"),
    *_sizes(name, result),
    (
      "linear layers alone",
      f"{result.linear_bytes:,} bytes, {result.linear_bytes / linear_dense:.3f} of {linear_dense:,}",
    ),
  ]


def _sizes(name: str, result: Export) -> list[tuple[str, str]]:
  """The bytes in each format, and which of them are written."""
  sizes = {"dense": result.dense_bytes, "bitmask": result.bitmask_bytes} | {name: result.weight_bytes}
  return [
    (
      f"bytes, {known}",
      f"{num_bytes:,}, {num_bytes / result.dense_bytes:.3f} of dense" + (" (written)" if known == name else ""),
    )
    for known, num_bytes in sizes.items()
  ]
