"""Compiles one train step and writes what the compiler says of it: `python -m maxtext_sparse.preflight.compile OUT ARGS`.

Each step is compiled in a process of its own, because MaxText's configuration and the TPU compiler's flags are set once
in a process. OUT is a JSON file; the text of the program goes beside it.
"""

from collections.abc import Sequence
import json
import sys
from typing import Any

from maxtext_sparse import hooks
from maxtext_sparse.entry import run_module
from maxtext_sparse.hooks import compile_hooks
from maxtext_sparse.hooks.settings import Settings
from maxtext_sparse.preflight.expected import expected_flops, model_flops

MODULE = "maxtext.trainers.pre_train.train_compile"


def main(out: str, arguments: Sequence[str]) -> None:
  """Runs MaxText's train_compile and writes the cost of the program that it compiles to `out`."""

  def write_cost(config: Any, settings: Settings, compiled: Any) -> None:
    told = _run_of(config, settings)
    if not isinstance(compiled, Exception):
      with open(text_path(out), "w", encoding="utf-8") as file:
        file.write(compiled.as_text())
      _write(out, told | {"memory": _memory(compiled)})
    elif "RESOURCE_EXHAUSTED" in str(compiled):
      _write(out, told | {"out_of_memory": _memory_line(str(compiled))})

  with compile_hooks.listening(write_cost):
    run_module(MODULE, arguments, hooks.install_for_preflight)


def text_path(out: str) -> str:
  """Where the text of the program is."""
  return out + ".hlo"


def _run_of(config: Any, settings: Settings) -> dict[str, Any]:
  """The run that the step belongs to."""
  keys, schedule = settings.keys, settings.schedule
  num_devices = abs(config.num_target_devices)
  return {
    "sparsity": keys.sparsity,
    "run": {
      "frequency": keys.gmp_pruning_frequency,
      "steps": config.steps,
      "num_events": len(schedule.event_steps) if schedule else 0,
      "num_devices": num_devices,
      "tokens_per_step": int(config.global_batch_size_to_train_on * config.max_target_length),
      "model_flops": model_flops(config),
      "expected_flops": expected_flops(config),
    },
  }


def _memory(program: Any) -> dict[str, int]:
  """Bytes of a compiled program on each device."""
  memory = program.memory_analysis()
  return {
    "argument_bytes": memory.argument_size_in_bytes,
    "temp_bytes": memory.temp_size_in_bytes,
    "output_bytes": memory.output_size_in_bytes,
    "alias_bytes": memory.alias_size_in_bytes,
    "code_bytes": memory.generated_code_size_in_bytes,
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
