"""Runs MaxText's own programs on a sparse model, one after the other in one process, so that they share its start-up.

Reads a list of calls from a JSON file: `train` with the plugin, `stock` without it, `module` for any other program, and
`decode`, whose tokens go to OUT/NAME.json.
"""

import json
import os
import sys

from tests.export import jetstream_stand_in


def train(args):
  from tests.export import maxtext_worker

  maxtext_worker.train(args)


def stock(args):
  from maxtext.trainers.pre_train import train as maxtext_train

  config, recorder = maxtext_train.initialize([maxtext_train.__file__, *args])
  maxtext_train.train_loop(config, recorder)


def param_only(args):
  from maxtext.utils import generate_param_only_checkpoint

  generate_param_only_checkpoint.main([generate_param_only_checkpoint.__file__, *args])


def decode(args):
  from maxtext.inference import decode as maxtext_decode

  maxtext_decode.main([maxtext_decode.__file__, *args])


def main():
  jetstream_stand_in.install()
  with open(sys.argv[1], encoding="utf-8") as file:
    calls = json.load(file)
  for call in calls:
    print(f"=== {call['call']} {call['name']}", flush=True)
    {"train": train, "stock": stock, "param_only": param_only, "decode": decode}[call["call"]](call["args"])
    if call["call"] == "decode":
      with open(os.path.join(sys.argv[2], f"{call['name']}.json"), "w", encoding="utf-8") as file:
        json.dump(jetstream_stand_in.generated[-1], file)


if __name__ == "__main__":
  main()
