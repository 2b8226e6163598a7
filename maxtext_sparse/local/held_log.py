"""Holds MaxText's log back until a run is set up, so that one that is refused before leaves one line on the terminal."""

from collections.abc import Iterator, Mapping
import contextlib
import sys
import threading
from typing import Any, TextIO

from maxtext_sparse.hooks.listeners import when_set_up

# Time from the first line on. Refusals come earlier, and after it someone may want to know what a run waits for.
_LONGEST_SECONDS = 60.0


@contextlib.contextmanager
def held_until_set_up(values: Mapping[str, Any]) -> Iterator[None]:
  """Keeps what Python prints in the with block until the run is set up, or for a minute after the first line.

  If the block fails before that, one line will say why, and what was kept is dropped. What libraries print in C++ is
  never kept: it may be the last words of a process that dies.

  Args:
    values: the keys that the run sets itself, which do not matter here.
  """
  del values

  def let_go() -> None:
    for stream in streams:
      stream.let_go()

  clock = threading.Timer(_LONGEST_SECONDS, let_go)
  clock.daemon = True
  lock = threading.RLock()
  streams = _Held(sys.stdout, clock, lock), _Held(sys.stderr, clock, lock)
  before = sys.stdout, sys.stderr
  sys.stdout, sys.stderr = streams  # they do all that a stream does
  try:
    with when_set_up(let_go):
      yield
    let_go()
  except (KeyboardInterrupt, SystemExit):  # MaxText's main ends with the latter, and so does a bad option of its own
    let_go()
    raise
  finally:
    clock.cancel()
    sys.stdout, sys.stderr = before


class _Held:
  """A stream that keeps what is written to it until it is let go. Handlers of logs hold on to it for ever."""

  def __init__(self, stream: TextIO, clock: threading.Timer, lock: threading.RLock):
    self._stream, self._clock, self._lock = stream, clock, lock
    self._kept: list[str] | None = []

  def write(self, text: str) -> int:
    """Keeps the text or passes it on."""
    with self._lock:
      if self._kept is None:
        return self._stream.write(text)
      self._kept.append(text)
      if self._clock.ident is None:  # it has not started
        self._clock.start()
      return len(text)

  def flush(self) -> None:
    """Nothing is to be flushed before it may be seen."""
    if self._kept is None:
      self._stream.flush()

  def let_go(self) -> None:
    """Writes what was kept, and from now on everything at once."""
    with self._lock:
      kept, self._kept = self._kept, None
      if kept:
        self._stream.write("".join(kept))
        self._stream.flush()

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)
