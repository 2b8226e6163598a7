"""Compiles one train step and writes what the compiler says of it: `python -m maxtext_sparse.preflight.compile OUT ARGS`.

Each step is compiled in a process of its own, because MaxText's configuration and the TPU compiler's flags are set once
in a process.
"""

from collections.abc import Sequence
import dataclasses
import json
import sys
from typing import Any

from maxtext_sparse import hooks
from maxtext_sparse.entry import run_module
from maxtext_sparse.hooks import compile_hooks
from maxtext_sparse.hooks.settings import Settings
from maxtext_sparse.preflight.hlo import collectives

MODULE = "maxtext.trainers.pre_train.train_compile"


def main(out: str, arguments: Sequence[str]) -> None:
  """Runs MaxText's train_compile and writes the cost of the program that it compiles to `out`."""

  def write_cost(settings: Settings, compiled: Any) -> None:
    keys = settings.keys
    told = {"sparsity": keys.sparsity, "frequency": keys.gmp_pruning_frequency}
    if not isinstance(compiled, Exception):
      _write(out, told | describe(compiled))
    elif "RESOURCE_EXHAUSTED" in str(compiled):
      _write(out, told | {"out_of_memory": _memory_line(str(compiled))})

  with compile_hooks.listening(write_cost):
    run_module(MODULE, arguments, hooks.install_for_preflight)


def describe(program: Any) -> dict[str, Any]:
  """Bytes, FLOPs and collectives of a compiled program, on each device."""
  memory, cost = program.memory_analysis(), program.cost_analysis()
  return {
    "argument_bytes": memory.argument_size_in_bytes,
    "temp_bytes": memory.temp_size_in_bytes,
    "output_bytes": memory.output_size_in_bytes,
    "alias_bytes": memory.alias_size_in_bytes,
    "code_bytes": memory.generated_code_size_in_bytes,
    "flops": cost["flops"],
    "bytes_accessed": cost["bytes accessed"],
    "collectives": [dataclasses.asdict(collective) for collective in collectives(program.as_text())],
  }


def _memory_line(message: str) -> str:
  """The compiler's own sentence on how much it would use of how much there is."""
  lines = [line.strip() for line in message.splitlines() if "hbm" in line.lower()]
  return lines[0] if lines else message.splitlines()[0]


def _write(out: str, content: dict[str, Any]) -> None:
  with open(out, "w", encoding="utf-8") as file:
    json.dump(content, file)


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2:])
