"""Tells others in this process of each row of metrics while a run trains, for example the bar of a terminal."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import time
from typing import Any

_SECONDS_BETWEEN_ROWS = 0.2

_listener: Callable[[dict[str, float]], None] | None = None
_told_at = 0.0


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
