"""A process that has imported MaxText and forks a child for each run, so that a start costs 3 seconds and not 25.

No jax backend exists where it forks: a child opens its own devices, has no state of another run, and can be killed alone.
Reads one JSON request per line on stdin, writes one JSON reply per line to the file descriptor given as argument.
A request: {"poll": pid}, or a run: {"call": name, "args": [key=value ...], "save": path, "log": path, "environment": {}}.
"""

import ctypes
import faulthandler
import functools
import json
import os
import signal
import sys
import traceback

PR_SET_PDEATHSIG = 1  # of Linux: no child outlives the nursery


def train(args, save, plugin=True):
  """Trains to the end; saves the final state as one npz by path."""
  import jax
  from maxtext.trainers.pre_train import train as maxtext_train

  from tests.hooks import worker

  with worker.plugin_installed(plugin):
    config, recorder = maxtext_train.initialize([maxtext_train.__file__, *args])
    state = jax.tree.map(fetch, maxtext_train.train_loop(config, recorder))
  if jax.process_index() == 0:
    worker.save_leaves(state, save)


def train_with_explicit_masks(args, save):
  """Stock MaxText, with its loss taken at the weights multiplied by 0/1 masks of their zeros."""
  from flax import nnx
  import jax
  from maxtext.trainers.pre_train import train as maxtext_train

  stock_loss_fn = maxtext_train.loss_fn

  @functools.wraps(stock_loss_fn)
  def masked_loss_fn(model, config, data, dropout_rng, params, sparsity_state=None, is_train=True):
    weights = nnx.as_pure(nnx.state(model, nnx.Param))
    nnx.update(model, jax.tree.map(lambda w: w * (jax.lax.stop_gradient(w) != 0), weights))
    try:
      return stock_loss_fn(model, config, data, dropout_rng, params, sparsity_state, is_train=is_train)
    finally:
      nnx.update(model, weights)

  maxtext_train.loss_fn = masked_loss_fn
  train(args, save, plugin=False)


def main_program(args, save):
  """What `python -m maxtext_sparse.train` does."""
  del save
  from maxtext_sparse.entry import run_module

  run_module("maxtext.trainers.pre_train.train", args)


def command(args, save):
  """What `maxtext-sparse ARGS` does."""
  del save
  from maxtext_sparse.cli import main as maxtext_sparse

  sys.argv = ["maxtext-sparse", *args]
  maxtext_sparse()


def fine_tune(args, save):
  """What `maxtext-sparse run maxtext.trainers.post_train.sft.train_sft_native` does."""
  del save
  from maxtext_sparse.entry import run_module

  run_module("maxtext.trainers.post_train.sft.train_sft_native", args)


CALLS = {
  "sparse": train,
  "stock": functools.partial(train, plugin=False),
  "explicit_masks": train_with_explicit_masks,
  "main": main_program,
  "command": command,
  "fine_tune": fine_tune,
}


def fetch(leaf):
  """The whole array, also where other processes hold part of it."""
  if leaf.is_fully_addressable:
    return leaf
  import jax
  from jax.experimental import multihost_utils

  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  return multihost_utils.process_allgather(leaf, tiled=True)


def run(request) -> int:
  """Runs one request in this process; returns the exit status that a program of its own would have."""
  ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
  os.environ.update(request["environment"])
  log = os.open(request["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
  for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
    os.dup2(descriptor, target)
  faulthandler.enable()
  try:
    join_others()
    CALLS[request["call"]](request["args"], request["save"])
  except SystemExit as error:
    return error.code if isinstance(error.code, int) else int(error.code is not None)
  except BaseException:
    traceback.print_exc()
    return 1
  return 0


def join_others() -> None:
  """Connects the processes of one run, as a cluster's launcher would."""
  if "TEST_COORDINATOR" not in os.environ:
    return
  import jax

  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
    os.environ["TEST_COORDINATOR"], int(os.environ["TEST_NUM_PROCESSES"]), int(os.environ["TEST_PROCESS_ID"])
  )


def poll(pid: int) -> int | None:
  """Exit status of a child, minus the signal's number where one killed it; None while it runs."""
  done, status = os.waitpid(pid, os.WNOHANG)
  return os.waitstatus_to_exitcode(status) if done else None


def preload() -> None:
  from absl import logging
  from maxtext.trainers.pre_train import train as maxtext_train

  from maxtext_sparse.hooks import table

  logging.set_verbosity(logging.INFO)
  del maxtext_train, table
  from jax._src import xla_bridge

  assert not xla_bridge.backends_are_initialized(), "a forked child could not open devices of its own"


def main() -> None:
  preload()
  replies = int(sys.argv[1])
  for line in sys.stdin:
    request = json.loads(line)
    if "poll" in request:
      reply = poll(request["poll"])
    elif (reply := os.fork()) == 0:
      os.close(replies)
      sys.exit(run(request))
    os.write(replies, f"{json.dumps(reply)}\n".encode())


if __name__ == "__main__":
  main()
