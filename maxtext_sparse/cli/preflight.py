"""`maxtext-sparse preflight`: what sparsity costs on a TPU pod, from the pod's compiler, before the pod is paid for."""

import sys
from typing import Annotated

import typer

from maxtext_sparse.errors import one_line_errors
from maxtext_sparse.terminal import console, print_json


def preflight(
  arguments: Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG ...] [key=value ...]", help="As for train; several files merge left to right."),
  ] = None,
  topology: Annotated[str, typer.Option(help="A TPU topology that MaxText knows, such as v5p-128.")] = ...,  # type: ignore[assignment]
  slices: Annotated[int, typer.Option(min=1, help="Slices of that topology.")] = 1,
  jobs: Annotated[int, typer.Option(min=1, help="Compilations at a time; each takes a core and a few GB.")] = 2,
  as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
  """Compiles MaxText's real train step for a TPU topology on this machine, dense and sparse, side by side.

  Needs no TPU, only the libtpu that MaxText brings. Takes minutes.

  JSON: dense, between_events and sparse, each with argument_bytes temp_bytes output_bytes flops bytes_accessed
  collectives; added_collectives[], fits, event_bytes, amortised_bytes, bars.

  Exits with 1 where the sparse step does not fit the memory of the chips.

  Example: maxtext-sparse preflight configs/models/1b.yml --topology v5p-128 sparsity=0.8
  """
  from maxtext_sparse.preflight.compare import compare
  from maxtext_sparse.preflight.text import as_json as to_json
  from maxtext_sparse.preflight.text import print_comparison

  with one_line_errors():
    comparison = compare(arguments or [], topology, slices, jobs, lambda line: print(line, file=sys.stderr, flush=True))
  if as_json:
    print_json(to_json(comparison))
  else:
    print_comparison(comparison, console())
  if not comparison.fits:
    raise typer.Exit(1)
