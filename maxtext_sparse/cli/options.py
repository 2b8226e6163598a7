"""Options and arguments that several commands share."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from maxtext_sparse.amounts import meant_share, MOST, read_amount

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


def share(help: str, *names: str, **settings: Any) -> Any:
  """An option for a share of 1, such as 0.8."""
  return typer.Option(*names, parser=_read_share, metavar="X", help=help, **settings)


def whole(help: str, *names: str, **settings: Any) -> Any:
  """An option for a whole number, which may be written as 100K."""
  return typer.Option(*names, parser=_read_whole, metavar="N", help=help, **settings)


def _read_share(text: str | float) -> float:
  try:
    return float(text)
  except ValueError:
    raise typer.BadParameter(f"{text!r} must be a number{meant_share(str(text)) or ' such as 0.8'}") from None


def _read_whole(text: str | int) -> int:
  """A sign is left to the check of the number itself."""
  if isinstance(text, int):  # the default
    return text
  digits = text.removeprefix("-")
  try:
    number = 0.0 if digits.strip("0") == "" and digits else read_amount(digits)
  except ValueError:
    number = 0.5
  if number != int(number):
    raise typer.BadParameter(f"{text!r} must be a whole number, such as 10000 or 10K")
  return int(number) if digits == text else -int(number)


def _reader(most: float) -> Callable[[str | float], float]:
  def read(text: str | float) -> float:
    if isinstance(text, float):  # the default
      return text
    try:
      return read_amount(text, most)
    except ValueError as error:
      raise typer.BadParameter(f"{text!r} {error}") from None

  return read
