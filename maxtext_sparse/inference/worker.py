"""A process that holds one variant of a model and times it on request: one JSON object a line in, one a line out.

  {"do": "load"}                              -> seconds, resident_bytes, libraries_bytes, layouts, shapes
  {"do": "generate", "tokens": 32}            -> seconds of each token, the tokens
  {"do": "prompt", "tokens": 128}             -> seconds
  {"do": "logits", "path": FILE}              -> writes them, of a prompt of 32 tokens
  {"do": "bandwidth"}                         -> bytes_per_second of reading memory
  {"do": "products", "shape": [R, C], ...}    -> seconds of one product by density, see products.py
  {"do": "threads"}                           -> the threads that worked since "load": core, allowed cores, seconds
  {"do": "mask", "density": 0.1}              -> keeps the largest weights of each matrix of ours, layouts, density, ...

The process that starts it sets the environment: `OMP_NUM_THREADS`, `OMP_PROC_BIND` and `OMP_PLACES` pin torch's threads.
"""

import collections
from collections.abc import Mapping
import json
import os
from pathlib import Path
import sys
import time
from typing import Any

import numpy as np
import torch
import transformers

from maxtext_sparse.errors import one_line_errors
from maxtext_sparse.inference import variants
from maxtext_sparse.inference.calibration import faster_layout
from maxtext_sparse.inference.library import set_threads
from maxtext_sparse.inference.linear import SparseLinear
from maxtext_sparse.inference.masking import mask_further
from maxtext_sparse.inference.products import product_seconds

_PROMPT_TOKENS = 8
_LOGITS_TOKENS = 32
_BANDWIDTH_BYTES = 2**29
_TASKS = Path("/proc/self/task")


class Worker:
  """Answers the requests above for one variant of one folder."""

  def __init__(self, folder: str, variant: str, cpus: list[int]):
    self._folder, self._variant, self._cpus = folder, variant, cpus
    # The libraries' own memory is there before a model is.
    self._resident_before = resident_bytes()

  def load(self) -> dict[str, Any]:
    begin = time.perf_counter()
    self._model = variants.make(self._variant, self._folder, self._cpus)
    seconds = time.perf_counter() - begin
    self._generate(2)
    # transformers reads files in threads of its own, which are not pinned and are idle from here on.
    self._seconds_before = thread_seconds()
    grown = resident_bytes() - self._resident_before
    return {"seconds": seconds, "resident_bytes": grown, "libraries_bytes": self._resident_before, **self._layouts()}

  def generate(self, tokens: int) -> dict[str, Any]:
    stamps, ids = self._generate(tokens)
    return {"seconds": np.diff(stamps).tolist(), "tokens": ids}

  def prompt(self, tokens: int) -> dict[str, Any]:
    ids = self._prompt(tokens)
    begin = time.perf_counter()
    with torch.inference_mode():
      self._model(input_ids=ids, logits_to_keep=1)
    return {"seconds": time.perf_counter() - begin}

  def logits(self, path: str) -> dict[str, Any]:
    with torch.inference_mode():
      np.save(path, self._model(input_ids=self._prompt(_LOGITS_TOKENS)).logits.float().numpy())
    return {}

  def mask(self, density: float) -> dict[str, Any]:
    for module in self._model.modules():
      if isinstance(module, SparseLinear):
        matrix = mask_further(module.matrix, density)
        module.matrix = matrix.with_layout(faster_layout(matrix))
    self._generate(2)
    return self._layouts()

  def bandwidth(self) -> dict[str, Any]:
    data = torch.zeros(_BANDWIDTH_BYTES // 4)
    seconds = []
    for _ in range(5):
      begin = time.perf_counter()
      data.sum()
      seconds.append(time.perf_counter() - begin)
    return {"bytes_per_second": _BANDWIDTH_BYTES / min(seconds)}

  def products(self, shape: list[int], rounds: int) -> dict[str, Any]:
    set_threads(len(self._cpus), self._cpus)
    return product_seconds((shape[0], shape[1]), rounds)

  def threads(self) -> dict[str, Any]:
    return {"threads": busy_threads(self._seconds_before)}

  def _generate(self, num_tokens: int) -> tuple[list[float], list[int]]:
    """The time at which each new token was there, and the tokens, chosen greedily."""
    stamps = _Stamps()
    ids = self._prompt(_PROMPT_TOKENS)
    out = self._model.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      do_sample=False,
      min_new_tokens=num_tokens,
      max_new_tokens=num_tokens,
      pad_token_id=0,
      streamer=stamps,
    )
    return stamps.times[1:], out[0, _PROMPT_TOKENS:].tolist()

  def _prompt(self, num_tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, self._model.config.vocab_size, (1, num_tokens), generator=generator)

  def _layouts(self) -> dict[str, Any]:
    matrices = [module.matrix for module in self._model.modules() if isinstance(module, SparseLinear)]
    return {
      "layouts": dict(collections.Counter(matrix.layout for matrix in matrices)),
      "shapes": [list(matrix.shape) for matrix in matrices],
      "packed_bytes": sum(matrix.num_bytes for matrix in matrices),
      "density": sum(m.values.size for m in matrices) / max(1, sum(m.shape[0] * m.shape[1] for m in matrices)),
    }


class _Stamps(transformers.generation.streamers.BaseStreamer):
  """Notes when `generate` hands over the prompt, and then each token."""

  def __init__(self) -> None:
    self.times: list[float] = []

  def put(self, value: Any) -> None:
    self.times.append(time.perf_counter())

  def end(self) -> None:
    pass


def resident_bytes() -> int:
  """Memory of this process that is in RAM now, mapped files included."""
  for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
    if line.startswith("VmRSS:"):
      return int(line.split()[1]) * 1024
  raise OSError("/proc/self/status has no VmRSS")


def thread_seconds() -> dict[int, float]:
  """CPU seconds that each thread of this process has used, by its id."""
  ticks = {int(task.name): sum(map(int, _stat(task)[11:13])) for task in _TASKS.iterdir()}
  return {thread: number / os.sysconf("SC_CLK_TCK") for thread, number in ticks.items()}


def busy_threads(seconds_before: Mapping[int, float]) -> list[dict[str, Any]]:
  """The threads of this process that ran for at least a twentieth of a second since then.

  Args:
    seconds_before: what `thread_seconds` returned.

  Returns:
    For each thread the core that it ran on last, the cores that it may use, and its seconds.
  """
  threads = []
  for thread, seconds in thread_seconds().items():
    worked = seconds - seconds_before.get(thread, 0.0)
    if worked >= 0.05:
      core = int(_stat(_TASKS / str(thread))[36])
      threads.append({"cpu": core, "allowed": sorted(os.sched_getaffinity(thread)), "seconds": worked})
  return threads


def _stat(task: Path) -> list[str]:
  """Fields after the name, which is in parentheses: 11 and 12 are user and system ticks, 36 is the core."""
  return (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def main() -> None:
  folder, variant, cores = sys.argv[1:]
  transformers.utils.logging.set_verbosity_error()
  transformers.utils.logging.disable_progress_bar()
  torch.set_num_threads(len(cores.split(",")))
  with one_line_errors():
    worker = Worker(folder, variant, [int(core) for core in cores.split(",")])
    for line in sys.stdin:
      request = json.loads(line)
      print(json.dumps(getattr(worker, request.pop("do"))(**request)), flush=True)


if __name__ == "__main__":
  main()
