"""MaxText's pre-training with the plugin installed: `python -m maxtext_sparse.train CONFIG [CONFIG ...] [key=value ...]`.

Takes exactly what `python -m maxtext.trainers.pre_train.train` takes; several config files merge left to right.
"""

from maxtext_sparse.entry import run_module

MODULE = "maxtext.trainers.pre_train.train"

if __name__ == "__main__":
  import sys

  run_module(MODULE, sys.argv[1:])
