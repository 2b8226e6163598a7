"""`maxtext_sparse.train` as a child process that ends when its parent does: `python -m maxtext_sparse.local.child ARGS`.

The parent holds the other end of standard input open and writes nothing. However it dies, kill -9 included, the read
returns and the run stops where it is; its checkpoints carry on.
"""

import os
import sys
import threading

from maxtext_sparse.entry import run_module
from maxtext_sparse.train import MODULE


def _exit_with_parent() -> None:
  # Not through sys.stdin: its lock would be held when the interpreter shuts down.
  os.read(0, 1)
  os._exit(1)


if __name__ == "__main__":
  threading.Thread(target=_exit_with_parent, daemon=True).start()
  run_module(MODULE, sys.argv[1:])
