"""A process that trains with real MaxText, many runs one after the other, so that tests share imports and compilation.

Reads one JSON request per line on stdin, writes one JSON reply per line to the file descriptor given as argument.
A request: {"call": "train" | "config", "args": [key=value ...], "plugin": bool, "save": path or null}.
"""

import contextlib
import json
import os
import sys
import traceback


def train(args, plugin, save):
  """Trains to the end; returns the number of leaves in the final state, saved as one npz by path."""
  from maxtext.trainers.pre_train import train as maxtext_train

  with plugin_installed(plugin):
    config, recorder = maxtext_train.initialize([maxtext_train.__file__, *args])
    state = maxtext_train.train_loop(config, recorder)
  return save_leaves(state, save) if save else None


def config(args, plugin, save):
  """Builds the config only; returns the sparsity keys it has."""
  del save
  from maxtext.configs import pyconfig

  from maxtext_sparse.config import KEYS

  with plugin_installed(plugin):
    flat = pyconfig.initialize(["train.py", *args]).get_keys()
  return {key: flat[key] for key in KEYS if key in flat}


def save_leaves(state, path):
  import jax
  import numpy as np

  leaves = {}
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(state):
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf.astype("float32") if leaf.dtype == "bfloat16" else leaf)
    leaves[jax.tree_util.keystr(key_path, simple=True, separator="/")] = array
  np.savez(path, **leaves)
  return len(leaves)


def plugin_installed(plugin):
  from maxtext_sparse import hooks

  return hooks.installed() if plugin else contextlib.nullcontext()


def answer(request):
  call = {"train": train, "config": config}[request["call"]]
  old_environment = dict(os.environ)
  os.environ.update(request.get("environment", {}))
  try:
    return {"value": call(request["args"], request["plugin"], request.get("save"))}
  except SystemExit as error:
    return {"error": "SystemExit", "message": str(error.code)}
  except Exception as error:  # the test decides whether it was expected
    traceback.print_exc()
    return {"error": type(error).__name__, "message": str(error)}
  finally:
    os.environ.clear()
    os.environ.update(old_environment)


def main():
  from absl import logging

  logging.use_absl_handler()  # as absl's app.run does
  logging.set_verbosity(logging.INFO)
  with os.fdopen(int(sys.argv[1]), "w") as replies:
    for line in sys.stdin:
      print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
  main()
