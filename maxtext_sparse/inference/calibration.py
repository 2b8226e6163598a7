"""Which layout multiplies fastest at a density, measured once on a machine and cached."""

from collections.abc import Sequence
import functools
import json
from pathlib import Path
import platform
import time

import numpy as np

from maxtext_sparse.inference.library import cache_folder, file_name, isa, thread_cpus
from maxtext_sparse.inference.matrix import Array, Dtype, DTYPES, Layout, PackedMatrix
from maxtext_sparse.runs.files import replace_json

# dtype -> layout -> [[density, nanoseconds a weight of the whole matrix], ...], densities ascending.
Table = dict[str, dict[str, list[list[float]]]]

_DENSITIES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.35, 0.6, 1.0)
# CSR is measured up to this density, beyond which the bitmask wins by far; dense costs the same at any density.
_CSR_UP_TO = 0.2
_ROWS, _COLS = 2048, 4096
_ROUNDS = 15


def calibrate(force: bool = False) -> Table:
  """Measures the kernels with the threads that are set: about ten seconds, or nothing if it was done on this machine.

  Args:
    force: measure although there is a cached table.

  Returns:
    The time of each dtype and layout by density, for one vector.
  """
  path = cache_folder() / f"calibration-{_machine_key()}.json"
  if not force:
    cached = _cached(path)
    if cached:
      return cached
  table = _measured()
  replace_json(str(path), table)
  _cached.cache_clear()
  return table


def faster_layout(matrix: PackedMatrix) -> Layout:
  """The layout that multiplies a matrix of this dtype and density fastest here; bitmask without compiled kernels."""
  if isa() == "numpy":
    return "bitmask"
  return choose(calibrate(), matrix.dtype, matrix.density, matrix.shape[1] <= 65_536)


def choose(table: Table, dtype: Dtype, density: float, may_be_csr: bool = True) -> Layout:
  """The layout of a table with the least time at a density, interpolated between what was measured."""
  times: dict[Layout, float] = {"bitmask": _interpolated(table[dtype]["bitmask"], density)}
  times["dense"] = table[dtype]["dense"][0][1]
  if may_be_csr and density <= _CSR_UP_TO:
    times["csr"] = _interpolated(table[dtype]["csr"], density)
  return min(times, key=lambda layout: times[layout])


def _interpolated(points: list[list[float]], density: float) -> float:
  densities, times = zip(*points)
  return float(np.interp(density, densities, times))


def _measured() -> Table:
  generator = np.random.default_rng(0)
  uniform = generator.random((_ROWS, _COLS), np.float32)
  x = generator.standard_normal((1, _COLS), np.float32)
  table: Table = {dtype: {"bitmask": [], "csr": [], "dense": []} for dtype in DTYPES}
  for density in _DENSITIES:
    # The weights that are kept have values in (0, 1].
    packed = PackedMatrix.pack(np.where(uniform < density, 1 - uniform, np.float32(0)))
    for dtype in DTYPES:
      for layout, nanoseconds in _nanoseconds(packed.with_dtype(dtype), _layouts_at(density), x).items():
        table[dtype][layout].append([density, nanoseconds])
  return table


def _layouts_at(density: float) -> list[Layout]:
  layouts: list[Layout] = ["bitmask"]
  if density <= _CSR_UP_TO:
    layouts.append("csr")
  if density == 1.0:
    layouts.append("dense")
  return layouts


def _nanoseconds(matrix: PackedMatrix, layouts: Sequence[Layout], x: Array) -> dict[Layout, float]:
  """Nanoseconds a weight of each layout: the least of rounds in which the layouts take turns.

  What disturbs a round makes it slower, never faster. Copies that exceed the cache take turns, as a model's layers do.
  """
  copies = {layout: _copies(matrix.with_layout(layout)) for layout in layouts}
  seconds = dict.fromkeys(layouts, np.inf)
  for _ in range(_ROUNDS):
    for layout, same in copies.items():
      begin = time.perf_counter()
      for copy in same:
        copy.multiply(x)
      seconds[layout] = min(seconds[layout], (time.perf_counter() - begin) / len(same))
  return {layout: float(value) * 1e9 / (_ROWS * _COLS) for layout, value in seconds.items()}


def _copies(matrix: PackedMatrix) -> list[PackedMatrix]:
  num_copies = max(2, -(-64 * 2**20 // matrix.num_bytes))
  return [matrix] + [matrix.copy() for _ in range(min(num_copies, 8) - 1)]


def _machine_key() -> str:
  library = file_name().removeprefix("kernels-").removesuffix(".so")
  return f"{platform.node()}-{library}-{isa()}-{max(1, len(thread_cpus()))}t"


@functools.cache
def _cached(path: Path) -> Table | None:
  try:
    table: Table = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return None
  return table
