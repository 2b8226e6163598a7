"""Times `sweep make`, `status` and `collect` on many runs in a bucket: `python tests/benchmarks/bench_many_runs.py`.

The bucket is an emulator on this machine behind a proxy that waits 50 ms before each request. The runs are finished: what
they leave is written into the emulator directly.
"""

import dataclasses
import os
from pathlib import Path
import resource
import subprocess
import sys
import tempfile
import time

import measure

sys.path.insert(0, str(measure.ROOT))

from tests.faults import bucket, many_runs

NUM_RUNS = (200, 800, 2000)
DELAY = 0.05
COMMANDS = ("make", "status", "collect")


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one command costs, the start of the program included.

  Attributes:
    requests: to the bucket.
    seconds: by the clock. Other programs on the machine make them more.
    cpu_seconds: that the command computes.
  """

  requests: int
  seconds: float
  cpu_seconds: float


def measure_study(num_runs: int) -> dict[str, Cost]:
  """The cost of each command on a study of so many runs."""
  with tempfile.TemporaryDirectory() as folder, many_runs.finished_study(Path(folder), num_runs, DELAY) as study:
    manifest, proxy = study
    spec = str(many_runs.write_spec(Path(folder), num_runs))
    arguments = {"make": [spec, "--out", f"{folder}/made"], "status": [manifest.directory]}
    arguments["collect"] = [manifest.directory, "--out", f"{folder}/runs.csv"]
    bucket.objects(proxy.port, "study/")  # the emulator needs long for its list, which the proxy keeps
    return {command: measure_command(proxy, command, *arguments[command]) for command in COMMANDS}


def measure_command(proxy: many_runs.PagedProxy, *arguments: str) -> Cost:
  """Runs one of the commands of `sweep`."""
  variables = os.environ | bucket.variables(proxy.port) | {"PYTHONPATH": str(measure.ROOT), "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "maxtext_sparse", "sweep", *arguments]
  requests, cpu_seconds, start = proxy.num_requests, _cpu_seconds(), time.perf_counter()
  subprocess.run(command, env=variables, stdout=subprocess.DEVNULL, check=True)
  return Cost(proxy.num_requests - requests, time.perf_counter() - start, _cpu_seconds() - cpu_seconds)


def main() -> None:
  results = {num_runs: measure_study(num_runs) for num_runs in NUM_RUNS}
  columns = [f"{command}, {what}" for command in COMMANDS for what in ("requests", "s", "CPU s")]
  rows = [
    [f"{num_runs:,}"] + [text for command in COMMANDS for text in _cells(costs[command])]
    for num_runs, costs in results.items()
  ]
  content = {num_runs: {c: dataclasses.asdict(cost) for c, cost in costs.items()} for num_runs, costs in results.items()}
  measure.publish("many_runs", content, measure.markdown(["runs", *columns], rows))
  draw(results)


def draw(results: dict[int, dict[str, Cost]]) -> None:
  """Writes `many_runs.png`: seconds against runs for each command, by the clock on the left."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
  for axes, name, title in zip(panels, ("seconds", "cpu_seconds"), ("by the clock", "computing"), strict=True):
    for command, style in zip(COMMANDS, ("ko-", "ks--", "k^:"), strict=True):
      seconds = [getattr(costs[command], name) for costs in results.values()]
      axes.plot(list(results), seconds, style, label=f"sweep {command}")
    axes.set(xlabel="runs", title=title, xlim=(0, None), ylim=(0, None))
  panels[0].set_ylabel("seconds")
  panels[0].legend(frameon=False)
  figure.savefig(measure.OUT / "many_runs.png", dpi=150)


def _cells(cost: Cost) -> list[str]:
  return [f"{cost.requests:,}", f"{cost.seconds:.1f}", f"{cost.cpu_seconds:.1f}"]


def _cpu_seconds() -> float:
  """Of all commands that have ended."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
  main()
