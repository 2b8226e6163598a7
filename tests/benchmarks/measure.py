"""What the benchmarks share: timing in turns, a description of the machine, and results as JSON and Markdown."""

from collections.abc import Callable, Mapping, Sequence
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
OUT = ROOT / "build" / "benchmarks"
# What a machine is described with; not every benchmark's environment has all of them.
_PACKAGES = ("jax", "jaxlib", "numpy", "optax", "maxtext", "libtpu", "torch", "transformers")


def interleaved(functions: Mapping[str, Callable[[], Any]], num_rounds: Mapping[str, int]) -> dict[str, list[float]]:
  """Times functions that take turns, so that a slow moment of the machine hits all of them.

  Args:
    functions: by name; each returns arrays, for which the clock waits.
    num_rounds: how often each is called. A function with more than three rounds is called once more before, which warms
      it up and is not counted.

  Returns:
    Seconds of each call, by name.
  """
  import jax

  for name, function in functions.items():
    if num_rounds[name] > 3:
      jax.block_until_ready(function())
  seconds: dict[str, list[float]] = {name: [] for name in functions}
  for i in range(max(num_rounds.values())):
    for name, function in functions.items():
      if i < num_rounds[name]:
        begin = time.perf_counter()
        jax.block_until_ready(function())
        seconds[name].append(time.perf_counter() - begin)
  return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
  """The median of each function's times."""
  return {name: statistics.median(values) for name, values in seconds.items()}


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float], num_draws: int = 2_000) -> tuple[float, ...]:
  """The ratio of two medians with its 95 % bootstrap interval: (ratio, low, high)."""
  generator = np.random.default_rng(0)
  draw = lambda values: np.median(generator.choice(values, (num_draws, len(values))), axis=1)
  low, high = np.quantile(draw(numerator) / draw(denominator), [0.025, 0.975])
  return statistics.median(numerator) / statistics.median(denominator), float(low), float(high)


def machine() -> dict[str, Any]:
  """What a reader must know to compare figures: processor, cores, load and versions."""
  return {
    "python": platform.python_version(),
    "processor": _processor(),
    "cores": os.cpu_count(),
    "load": round(os.getloadavg()[0], 1),
    **{name: version for name in _PACKAGES if (version := _version(name))},
  }


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table."""
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(name: str, results: Any, table: str) -> None:
  """Writes the results, the table and the machine to `build/benchmarks/NAME.json`, and prints the table."""
  OUT.mkdir(parents=True, exist_ok=True)
  content = {"machine": machine(), "results": results, "table": table}
  (OUT / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
  print(table)


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _processor() -> str:
  lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
  names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
  return names[0] if names else platform.processor()
