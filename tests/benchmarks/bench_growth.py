"""Times the search as weights and devices grow, and plots it: `python tests/benchmarks/bench_growth.py`.

The devices are not real. XLA splits this machine's cores into them, so more devices show what collectives cost and do not
make the search faster.
"""

import argparse
from collections.abc import Callable
import json
import os
import subprocess
import sys
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import bench_search
import jax
import measure
import numpy as np

SIZES = (1e6, 2e6, 4e6, 8e6, 16e6, 32e6, 64e6, 128e6)
DEVICES = (1, 2, 4, 8)
DEVICE_SIZE = 42e6
_ROUNDS = 15


def seconds_by_size() -> dict[int, float]:
  """Seconds of one search on one device, by number of weights."""
  functions, counts = {}, {}
  for size in SIZES:
    weights = bench_search.draw_weights(size)
    counts[str(size)] = sum(w.size for w in weights)
    functions[str(size)] = _search(weights)
  seconds = measure.medians(measure.interleaved(functions, dict.fromkeys(functions, _ROUNDS)))
  return {counts[name]: seconds[name] for name in functions}


def seconds_on_devices(num_devices: int) -> float:
  """Seconds of one search over weights that are split over all devices; this process must have `num_devices`."""
  mesh = jax.make_mesh((num_devices,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
  with jax.set_mesh(mesh):
    place = lambda w: jax.device_put(w, jax.NamedSharding(mesh, jax.P(*[None] * (w.ndim - 1), "fsdp")))
    weights = [place(w[..., : w.shape[-1] // 8 * 8]) for w in bench_search.draw_weights(DEVICE_SIZE)]
    return measure.medians(measure.interleaved({"search": _search(weights)}, {"search": _ROUNDS}))["search"]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
  num_devices = parser.parse_args().devices
  if num_devices:
    print(json.dumps(seconds_on_devices(num_devices)))
    return
  sizes = seconds_by_size()
  devices = {n: _in_process_with(n) for n in DEVICES}
  rows = [[f"{count / 1e6:.0f}M", "1", f"{s * 1e3:.1f}", f"{s / count * 1e9:.2f}"] for count, s in sizes.items()]
  rows += [
    [f"{DEVICE_SIZE / 1e6:.0f}M", str(n), f"{s * 1e3:.1f}", f"{s / DEVICE_SIZE * 1e9:.2f}"] for n, s in devices.items()
  ]
  table = measure.markdown(["weights", "devices", "search, ms", "ns a weight"], rows)
  measure.publish("growth", {"by_size": sizes, "by_devices": devices}, table)
  draw(sizes, devices)


def draw(sizes: dict[int, float], devices: dict[int, float]) -> None:
  """Writes `search_growth.png`: time against weights on the left, against devices on the right."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
  counts, seconds = np.array(list(sizes)), np.array(list(sizes.values()))
  left.loglog(counts, seconds * 1e3, "ko-", label="search")
  left.loglog(counts, seconds[-1] * 1e3 * counts / counts[-1], "k:", label="proportional")
  left.set(xlabel="weights", ylabel="milliseconds", title="one device")
  right.plot(list(devices), np.array(list(devices.values())) * 1e3, "ko-")
  right.set(xlabel="fake devices on 2 cores", title=f"{DEVICE_SIZE / 1e6:.0f}M weights", ylim=(0, None), xticks=DEVICES)
  left.legend(frameon=False)
  figure.savefig(measure.OUT / "search_growth.png", dpi=150)


def _search(weights: list[jax.Array]) -> Callable[[], Any]:
  num_keep = round(sum(w.size for w in weights) * (1 - bench_search.SPARSITY))
  search = jax.jit(lambda weights: bench_search.find_cut(weights, num_keep))
  return lambda: search(weights)


def _in_process_with(num_devices: int) -> float:
  """`seconds_on_devices` in a process of its own, because XLA counts its devices once, when it starts."""
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}"
  command = [sys.executable, __file__, "--devices", str(num_devices)]
  told = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, stdout=subprocess.PIPE, check=True, text=True)
  return json.loads(told.stdout.splitlines()[-1])


if __name__ == "__main__":
  main()
