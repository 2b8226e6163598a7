"""Counts as people write them, and the ones that are typing errors."""

from hypothesis import example, given
from hypothesis import strategies as st
import pytest

from maxtext_sparse.amounts import parse_amount, parse_count, rounded_down, rounded_up
from maxtext_sparse.errors import ConfigError


@pytest.mark.parametrize(
  ("text", "amount"), [("2097152", 2097152), ("33.5e9", 33.5e9), ("33.5B", 33.5e9), ("0.5M", 5e5), ("1e20", 1e20)]
)
def test_amounts(text, amount):
  assert parse_amount(text, "flops") == amount


@pytest.mark.parametrize("text", ["", "abc", "-5", "0", "1.2.3", "5X", "inf", "nan", "1e999"])
def test_amounts_that_are_none(text):
  with pytest.raises(ConfigError, match=f"--tokens={text}: must be a positive number"):
    parse_amount(text, "tokens")


def test_counts_are_whole():
  assert parse_count("138M", "prunable") == 138_000_000
  with pytest.raises(ConfigError, match=r"--batch=1.5: must be a whole number"):
    parse_count("1.5", "batch")


@given(st.floats(1e-9, 1e33))
@example(0.001)  # as a float a little more than that
def test_a_rounded_limit_is_within_the_limit(number):
  assert float(rounded_down(number)) <= number <= float(rounded_up(number))
  assert float(rounded_up(number)) == pytest.approx(number, rel=0.01)


@pytest.mark.parametrize(("name", "text"), [("tokens", "1e30"), ("prunable", "138000000T"), ("flops", "1e60")])
def test_a_huge_amount_is_refused_by_name(name, text):
  with pytest.raises(ConfigError, match=rf"^--{name}={text}: must be at most 1e\+"):
    parse_amount(text, name)
