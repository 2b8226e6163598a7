"""Trains tiny models with real MaxText and computes their logits, many in one process, so that they share its start-up.

Reads a list of cases from a JSON file. A case may have `train`, arguments of a run, and `load`, arguments with which a
checkpoint is read, to compute the logits of `tokens` and write them to OUT/NAME.npz.
"""

import json
import os
import sys

import numpy as np


def train(args):
  from maxtext.trainers.pre_train import train as maxtext_train

  from maxtext_sparse import hooks

  with hooks.installed():
    config, recorder = maxtext_train.initialize([maxtext_train.__file__, *args])
    maxtext_train.train_loop(config, recorder)


def logits(args, tokens):
  """Logits [batch, length, vocabulary] of the checkpoint `load_parameters_path`, restored by MaxText itself."""
  import jax
  from maxtext.configs import pyconfig
  from maxtext.utils import maxtext_utils, model_creation_utils

  from maxtext_sparse import hooks

  with hooks.installed():
    config = pyconfig.initialize(["train.py", *args])
  mesh = jax.sharding.Mesh(maxtext_utils.create_device_mesh(config), config.mesh_axes)
  tokens = np.asarray(tokens, np.int32)
  positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
  segments = np.ones_like(tokens)
  with mesh:
    if config.get_keys().get("pure_nnx", True):
      model = model_creation_utils.from_pretrained(config, mesh=mesh)
      model = model[0] if isinstance(model, tuple) else model
      output = model(tokens, positions, segments, enable_dropout=False)
    else:
      model = model_creation_utils.from_config(config, mesh=mesh)
      params = restored_by_orbax(config.load_parameters_path)
      output = model.apply({"params": params}, tokens, positions, segments, enable_dropout=False)
  return np.asarray(output, np.float32)


def restored_by_orbax(path):
  from maxtext_sparse.export.checkpoint import Checkpoint

  checkpoint = Checkpoint(path)
  tree = {}
  for leaf in checkpoint.leaves.values():
    node = tree
    *modules, name = [key for key in leaf.keys if key != "params"]
    for module in modules:
      node = node.setdefault(module, {})
    node[name] = checkpoint.read(leaf.path)
  return tree


def main():
  with open(sys.argv[1], encoding="utf-8") as file:
    cases = json.load(file)
  for case in cases:
    if case.get("train"):
      train(case["train"])
    if case.get("load"):
      np.savez(os.path.join(sys.argv[2], f"{case['name']}.npz"), logits=logits(case["load"], case["tokens"]))


if __name__ == "__main__":
  main()
