"""Options and arguments that several commands share."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from maxtext_sparse.amounts import MOST, read_amount

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
# What `train` takes. Every command that looks at a run before it trains takes the same.
RunArguments = Annotated[
  list[str] | None,
  typer.Argument(
    metavar="[CONFIG ...] [key=value ...]",
    help="The arguments of train. Several config files are merged from left to right.",
  ),
]


def amount(kind: str, help: str, **settings: Any) -> Any:
  """An option for a positive number such as 138M or 33.5B; `kind` is the name in `amounts.MOST` that bounds it."""
  return typer.Option(parser=_reader(MOST[kind]), metavar="COUNT", help=help, **settings)


def _reader(most: float) -> Callable[[str | float], float]:
  def read(text: str | float) -> float:
    if isinstance(text, float):  # the default
      return text
    try:
      return read_amount(text, most)
    except ValueError as error:
      raise typer.BadParameter(f"{text!r} {error}") from None

  return read
