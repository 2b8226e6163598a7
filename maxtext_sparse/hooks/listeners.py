"""Tells others in this process how far a run is: that it is set up, and each row of metrics. A bar shows the latter."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import time
from typing import Any

_SECONDS_BETWEEN_ROWS = 0.2

_listener: Callable[[dict[str, float]], None] | None = None
_told_at = 0.0
_when_set_up: Callable[[], None] | None = None


@contextlib.contextmanager
def when_set_up(call: Callable[[], None]) -> Iterator[None]:
  """Calls `call` as soon as a run in the with block has its state and may train."""
  global _when_set_up
  _when_set_up = call
  try:
    yield
  finally:
    _when_set_up = None


def tell_set_up() -> None:
  """Says that the run is set up."""
  if _when_set_up is not None:
    _when_set_up()


@contextlib.contextmanager
def listening(listener: Callable[[dict[str, float]], None]) -> Iterator[None]:
  """Calls `listener` with rows in the with block, a few times a second at most."""
  global _listener
  _listener = listener
  try:
    yield
  finally:
    _listener = None


def tell(scalars: Mapping[str, Any], step: int) -> None:
  """Passes a row on. Without a listener the scalars stay on the devices."""
  global _told_at
  now = time.monotonic()
  if _listener is None or (now - _told_at < _SECONDS_BETWEEN_ROWS and "learning/loss" in scalars):
    return
  _told_at = now
  _listener({name: float(value) for name, value in scalars.items()} | {"step": float(step)})
