"""Times `sweep make`, `status` and `collect` on many runs in a bucket: `python tests/benchmarks/bench_many_runs.py`.

The bucket is an emulator on this machine behind a proxy that waits 50 ms before each request. The runs are finished; what
they leave is written into the emulator directly.
"""

import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

import measure

sys.path.insert(0, str(measure.ROOT))

from tests.faults import bucket, many_runs

NUM_RUNS = (100, 500, 2000)
DELAY = 0.05
_COMMANDS = ("make", "status", "collect")


def measure_study(num_runs: int) -> dict[str, float]:
  """Seconds and requests of each command on a study of so many runs, the start of the program included."""
  with tempfile.TemporaryDirectory() as folder, many_runs.finished_study(Path(folder), num_runs, DELAY) as study:
    manifest, proxy = study
    spec, made = str(many_runs.write_spec(Path(folder), num_runs)), str(Path(folder) / "made")
    _run(proxy, "status", manifest.directory)  # the emulator writes its long answer once, and the proxy keeps it
    results: dict[str, float] = {"files": len(many_runs.objects_of(manifest))}
    for command in _COMMANDS:
      arguments = [spec, "--out", made] if command == "make" else [manifest.directory]
      before, start = proxy.num_requests, time.perf_counter()
      _run(proxy, command, *arguments)
      results |= {f"{command}_seconds": time.perf_counter() - start, f"{command}_requests": proxy.num_requests - before}
    return results


def main() -> None:
  results = {num_runs: measure_study(num_runs) for num_runs in NUM_RUNS}
  rows = []
  for num_runs, result in results.items():
    figures = [text for command in _COMMANDS for text in _cells(result, command)]
    rows.append([f"{num_runs:,}", f"{result['files']:,}", *figures])
  columns = [text for command in _COMMANDS for text in (f"{command}, requests", f"{command}, s")]
  measure.publish("many_runs", results, measure.markdown(["runs", "files", *columns], rows))
  draw(results)


def draw(results: dict[int, dict[str, float]]) -> None:
  """Writes `many_runs.png`: seconds against runs for each command."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
  for command, style in zip(_COMMANDS, ("ko-", "ks--", "k^:"), strict=True):
    axes.plot(
      list(results), [result[f"{command}_seconds"] for result in results.values()], style, label=f"sweep {command}"
    )
  axes.set(xlabel="runs", ylabel="seconds", title="a bucket with 50 ms for each request", xlim=(0, None), ylim=(0, None))
  axes.legend(frameon=False)
  figure.savefig(measure.OUT / "many_runs.png", dpi=150)


def _cells(result: dict[str, float], command: str) -> list[str]:
  return [f"{result[f'{command}_requests']:,.0f}", f"{result[f'{command}_seconds']:.1f}"]


def _run(proxy: many_runs.PagedProxy, *arguments: str) -> None:
  variables = os.environ | bucket.variables(proxy.port) | {"PYTHONPATH": str(measure.ROOT), "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "maxtext_sparse", "sweep", *arguments]
  subprocess.run(command, env=variables, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
  main()
