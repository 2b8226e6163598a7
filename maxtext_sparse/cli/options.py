"""Options and arguments that several commands share."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
# What `train` takes. Every command that looks at a run before it trains takes the same.
RunArguments = Annotated[
  list[str] | None,
  typer.Argument(
    metavar="[CONFIG ...] [key=value ...]", help="The arguments of train. Several config files merge left to right."
  ),
]
