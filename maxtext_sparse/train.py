"""MaxText's pre-training with the plugin installed: `python -m maxtext_sparse.train CONFIG [CONFIG ...] [key=value ...]`.

It takes what `python -m maxtext.trainers.pre_train.train` takes, and several config files, merged left to right.
"""

from maxtext_sparse.entry import run_module

MODULE = "maxtext.trainers.pre_train.train"

if __name__ == "__main__":
  import sys

  run_module(MODULE, sys.argv[1:])
