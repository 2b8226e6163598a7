"""Runs `maxtext_sparse.train` in a process that ends with its parent: `python -m maxtext_sparse.local.child ARGS`.

The parent keeps the other end of this process's standard input open and writes nothing. When the parent ends, even
through kill -9, the read returns and this process exits. The next attempt goes on from the run's last checkpoint.
"""

import os
import sys
import threading

from maxtext_sparse.entry import run_module
from maxtext_sparse.train import MODULE


def _exit_with_parent() -> None:
  # sys.stdin has a lock, which this thread would hold while the interpreter shuts down.
  os.read(0, 1)
  os._exit(1)


if __name__ == "__main__":
  threading.Thread(target=_exit_with_parent, daemon=True).start()
  run_module(MODULE, sys.argv[1:])
