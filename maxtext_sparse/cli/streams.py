"""The standard streams of a command: fit for what is printed, and a failure to print is one line."""

from collections.abc import Iterator
import contextlib
import errno
import io
import os
import sys

from maxtext_sparse.errors import print_error

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextlib.contextmanager
def printing() -> Iterator[None]:
  """Surrounds a command.

  Text that the output's encoding lacks is printed as question marks. Where nobody reads the output any more, as behind
  `| head`, the command ends without a word. Where it cannot be written, as on a full disk, it ends with one line.
  """
  _open_closed()
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="replace")
  try:
    try:
      yield
    finally:
      sys.stdout.flush()
  except OSError as error:
    # Files that a command writes are named by its own errors. What has no name is what it prints into.
    if error.filename is not None or error.errno not in (errno.EPIPE, *_NO_ROOM):
      raise
    _let_go()
    if error.errno != errno.EPIPE:
      print_error(f"output: cannot write ({error.strerror})")
    sys.exit(1)


def require_working_folder() -> None:
  """Ends the process with one line if its working folder has been removed; nearly all paths refer to it."""
  try:
    os.getcwd()
  except FileNotFoundError:
    print_error("the working folder is gone, change to one that exists")
    sys.exit(2)


def _open_closed() -> None:
  """A shell may start a process without streams (`>&-`). What it prints then goes nowhere."""
  if sys.stdout is None:
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it stays open)
  if sys.stderr is None:
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _let_go() -> None:
  """Sends what is still to be printed nowhere, or Python would try again when it ends, and complain."""
  with open(os.devnull, "w", encoding="utf-8") as nowhere:
    os.dup2(nowhere.fileno(), sys.stdout.fileno())
