"""What the benchmarks share: interleaved timing, the machine they ran on, results as JSON and Markdown."""

from collections.abc import Callable, Mapping, Sequence
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from typing import Any

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
OUT = ROOT / "build" / "benchmarks"


def interleaved(functions: Mapping[str, Callable[[], Any]], num_rounds: Mapping[str, int]) -> dict[str, list[float]]:
  """Seconds of each call, the compiled functions taking turns; those called often are called once before, uncounted."""
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
  return {name: statistics.median(values) for name, values in seconds.items()}


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float], num_draws: int = 2_000) -> tuple[float, ...]:
  """Ratio of the medians, and its 95 % interval by bootstrap."""
  generator = np.random.default_rng(0)
  draw = lambda values: np.median(generator.choice(values, (num_draws, len(values))), axis=1)
  low, high = np.quantile(draw(numerator) / draw(denominator), [0.025, 0.975])
  return statistics.median(numerator) / statistics.median(denominator), float(low), float(high)


def machine() -> dict[str, Any]:
  """What a reader needs to compare figures."""
  versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy", "optax")}
  return {
    "python": platform.python_version(),
    "processor": _processor(),
    "cores": os.cpu_count(),
    "load": round(os.getloadavg()[0], 1),
    "platform": jax.default_backend(),
    **versions,
  }


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [header, ["---"] * len(header), *rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(name: str, results: Any, table: str) -> None:
  """Writes `build/benchmarks/NAME.json` and prints the table."""
  OUT.mkdir(parents=True, exist_ok=True)
  content = {"machine": machine(), "results": results, "table": table}
  (OUT / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
  print(table)


def _processor() -> str:
  lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
  names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
  return names[0] if names else platform.processor()
