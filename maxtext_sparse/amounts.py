"""Counts as people write them: 138M weights, 33.5B tokens, 1e20 FLOPs."""

import decimal
import re

from maxtext_sparse.errors import ConfigError

_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
# The most of each kind that is not a typing error. The largest known runs have 1e12 weights, 1e14 tokens and 1e27 FLOPs.
MOST = {"prunable": 1e15, "dense-params": 1e15, "batch": 1e12, "tokens": 1e18, "flops": 1e33}

# A share of at least this was meant in percent.
_LEAST_PERCENT = 5


def parse_amount(text: str, name: str) -> float:
  """Reads a positive number such as 2097152, 33.5e9, 33.5B or 0.5M.

  Args:
    text: what the user wrote.
    name: of the option, for the message. It also says what is too much.

  Raises:
    ConfigError: it is not such a number.
  """
  try:
    return read_amount(text, MOST.get(name, float("inf")))
  except ValueError as error:
    raise ConfigError(f"--{name}={text}: {error}") from None


def read_amount(text: str, most: float = float("inf")) -> float:
  """As `parse_amount`, for a caller who names the option.

  Raises:
    ValueError: it is not a positive number, or more than `most`. The message says what would be right.
  """
  match = re.fullmatch(r"([0-9_.]+(?:e[+-]?[0-9]+)?)([kmbgt]?)", text.strip().lower())
  try:
    amount = float(match[1]) * _SUFFIXES[match[2]] if match else 0.0
  except ValueError:
    amount = 0.0
  if not 0.0 < amount < float("inf"):
    raise ValueError("must be a positive number, such as 2097152, 33.5e9 or 33.5B")
  if amount > most:
    raise ValueError(f"must be at most {most:.0e}")
  return amount


def parse_count(text: str, name: str) -> int:
  """Reads a positive whole number, written as in `parse_amount`.

  Raises:
    ConfigError: it is not such a number.
  """
  amount = parse_amount(text, name)
  if amount != round(amount):
    raise ConfigError(f"--{name}={text}: must be a whole number")
  return round(amount)


def meant_share(text: str) -> str:
  """', write 0.8' for a share that was written as 80 %, 80 or 0,8; '' for any other text."""
  number = text.strip().replace(",", ".")
  try:
    value = float(number.removesuffix("%"))
  except ValueError:
    return ""
  if number.endswith("%"):
    return f", write {value / 100:g}" if 0 < value < 100 else ""
  if _LEAST_PERCENT <= value < 100:
    return f", in percent? write {value / 100:g}"
  return f", write {value:g}" if "," in text and 0 < value < 1 else ""


def rounded_up(number: float) -> str:
  """Three digits, not below the number, so that a least value which a message tells is accepted."""
  return _rounded(number, decimal.ROUND_CEILING)


def rounded_down(number: float) -> str:
  """Three digits, not above the number, so that a highest value which a message tells is accepted."""
  return _rounded(number, decimal.ROUND_FLOOR)


def _rounded(number: float, direction: str) -> str:
  return f"{float(decimal.Context(prec=3, rounding=direction).create_decimal(repr(float(number)))):.6g}"
