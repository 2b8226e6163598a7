"""Asks the TPU compiler what sparsity costs on pods: `python tests/benchmarks/bench_preflight.py [NAME ...]`.

Runs `maxtext-sparse preflight` for each case and keeps its JSON in `build/benchmarks/preflight`. A case whose JSON is
there is not compiled again. `small` stands for the cases of SMALL, which take a quarter of an hour on two cores; all
cases take an hour.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

import measure

CASES = {
  "58m, v5e-16": ("configs/models/58m.yml", "--topology", "v5e-16"),
  "1b, v5p-128": ("configs/models/1b.yml", "--topology", "v5p-128"),
  "1b, v4-128": ("configs/models/1b.yml", "--topology", "v4-128"),
  "llama2-70b, v5p-128": ("model_name=llama2-70b", "per_device_batch_size=2", "--topology", "v5p-128"),
  "llama2-70b, v5p-512": ("model_name=llama2-70b", "per_device_batch_size=2", "--topology", "v5p-512"),
  "mixtral-8x7b, v5p-128": ("model_name=mixtral-8x7b", "per_device_batch_size=4", "--topology", "v5p-128"),
  # Other rules. Their events hold more than the default's: a bool for each weight, a cut for each matrix.
  "1b 2:4, v5p-128": ("configs/models/1b.yml", "pruning_structure=2:4", "sparsity=0.5", "--topology", "v5p-128"),
  "mixtral-8x7b per_matrix, v5p-128": (
    *("model_name=mixtral-8x7b", "per_device_batch_size=4", "pruning_scope=per_matrix", "--topology", "v5p-128"),
  ),
}
SMALL = ("58m, v5e-16", "1b, v5p-128")
_COMMON = ("steps=1000", "--json", "--jobs", "1")
_HEADER = (
  *("train step", "argument bytes", "temp bytes", "FLOPs, counted / expected", "step, ms at least"),
  *("event, ms", "over P", "added collectives", "memory"),
)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("names", nargs="*", default=list(CASES), help="cases to run, or `small`; all by default")
  names = parser.parse_args().names
  found = {name: compile_case(name) for name in (SMALL if names == ["small"] else names)}
  table = measure.markdown(_HEADER, [row(name, result) for name, result in found.items()])
  measure.publish("preflight", found, table)


def compile_case(name: str) -> dict[str, Any]:
  """What `preflight --json` prints for a case, from the file if there is one."""
  path = measure.OUT / "preflight" / (name.replace(", ", "-").replace(" ", "-").replace(":", "-") + ".json")
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    sparsity = () if any(word.startswith("sparsity=") for word in CASES[name]) else ("sparsity=0.8",)
    command = [sys.executable, "-m", "maxtext_sparse", "preflight", *CASES[name], *sparsity, *_COMMON]
    told = subprocess.run(command, cwd=measure.ROOT, stdout=subprocess.PIPE, text=True)
    # Status 1 with a result means that the step does not fit into memory; the table says so.
    if not told.stdout:
      sys.exit(f"{name}: preflight ended with status {told.returncode}")
    path.write_text(told.stdout)
  return json.loads(path.read_text())


def row(name: str, result: dict[str, Any]) -> list[str]:
  """One row of the table: sparse against dense."""
  if not result["fits"]:
    return [name, *["-"] * 7, "does not fit"]
  dense, sparse, pace = result["dense"], result["sparse"], result["pace"]
  change = lambda key: "equal" if sparse[key] == dense[key] else f"{sparse[key] / dense[key] - 1:+.3%}"
  largest = max((c["num_bytes"] for c in result["added_collectives"]), default=0)
  added = f"{len(result['added_collectives'])} all-reduces, {largest:,} bytes at most"
  memory = f"{sparse['total_bytes'] / 2**30:.1f} of {result['hbm_bytes'] / 2**30:.0f} GiB"
  flops = f"{dense['flops'] / result['expected_flops']:.3f}"
  times = f"{1e3 * pace['dense']:.1f}", f"{1e3 * pace['event']:.2f}", f"{pace['overhead']:+.3%}"
  return [name, change("argument_bytes"), change("temp_bytes"), flops, *times, added, memory]


if __name__ == "__main__":
  main()
