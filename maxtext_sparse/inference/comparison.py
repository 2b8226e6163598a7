"""Whether sparse inference pays on this machine: all variants of a model timed in turns, each in a process of its own.

Needs neither torch nor transformers in this process.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import math
import os
from pathlib import Path
import platform
import tempfile
from typing import Any

import numpy as np

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inference import break_even
from maxtext_sparse.inference.library import allowed_cpus, isa
from maxtext_sparse.inference.variant_process import Variant
from maxtext_sparse.weights.folder import ModelFolder

PROMPTS = (1, 8, 128, 512)
# Longer prompts than the kernels take are timed in every third turn, those that take torch's CSR many seconds once.
_LONG_PROMPT = 8
_LONGEST_OF_CSR = 128
_ROUNDS_MASKED = 5
DENSE = ("dense_fp32", "dense_bf16", "dense_int8")
OURS = ("sparse_bf16", "sparse_int8")
VARIANTS = (*DENSE, "torch_csr", *OURS)
# Of the memory that is free, how much all variants together may take to be held at once.
_MEMORY_SHARE = 0.8
# Bytes a weight of a linear layer in each variant, for the whole and for each of the weights that are left.
_BYTES_A_WEIGHT = {
  "dense_fp32": (4.0, 0.0),
  "dense_bf16": (2.0, 0.0),
  "dense_int8": (1.0, 0.0),
  "torch_csr": (0.0, 8.0),
  "sparse_bf16": (0.125, 2.0),
  "sparse_int8": (0.125, 1.0),
}
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class BenchPlan:
  """What is measured.

  Attributes:
    folder: the model.
    cpus: the cores, one thread each.
    num_rounds: how often each variant gets its turn; medians and intervals are over rounds.
    num_tokens: tokens that a turn generates.
  """

  folder: str
  cpus: tuple[int, ...]
  num_rounds: int = 7
  num_tokens: int = 24

  def __post_init__(self) -> None:
    if self.num_rounds < 1 or self.num_tokens < 2:
      raise ConfigError(f"rounds={self.num_rounds} tokens={self.num_tokens}: must be at least 1 round of 2 tokens")
    missing = sorted(set(self.cpus) - set(allowed_cpus()))
    if missing or not self.cpus:
      raise ConfigError(f"cpus={list(self.cpus)}: must be among {allowed_cpus()}, the cores that this process may use")


@dataclasses.dataclass
class Timing:
  """What was measured of one variant; lists have one entry a round."""

  loaded: Mapping[str, Any]
  tokens: list[int] = dataclasses.field(default_factory=list)
  token_seconds: list[float] = dataclasses.field(default_factory=list)
  prompt_seconds: dict[int, list[float]] = dataclasses.field(default_factory=lambda: {n: [] for n in PROMPTS})
  threads: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  logits: Any = None


def compare(plan: BenchPlan, say: Say) -> dict[str, Any]:
  """Measures all variants of a folder's model.

  Args:
    plan: what to measure.
    say: is told what happens, a line at a time.

  Returns:
    JSON: see `maxtext_sparse/inference/README.md`.

  Raises:
    ConfigError: the folder holds no model that can be loaded.
    RunError: a process failed.
  """
  # The load is that of other programs: later it would be our own.
  described = machine(plan.cpus)
  files = ModelFolder(plan.folder)
  num_linear, num_other, density = _count(files)
  needed = sum(_weight_bytes(name, num_linear, num_other, density) for name in VARIANTS)
  is_interleaved = needed < _MEMORY_SHARE * _free_bytes()
  if not is_interleaved:
    say(f"all variants take {needed / 2**30:.1f} GiB, too much at once: measured one after the other")
  groups = [VARIANTS] if is_interleaved else [(name,) for name in VARIANTS]
  timings: dict[str, Timing] = {}
  masked: list[dict[str, Any]] = []
  for group in groups:
    with _started(plan, group, say) as variants:
      timings.update(_measure(plan, variants, say))
      if is_interleaved:
        masked = _mask_further(plan, variants, density, say)
  say("reading memory, and products by density")
  with Variant(plan.folder, plan.cpus, "none") as bare:
    bandwidth = bare.ask("bandwidth")["bytes_per_second"]
    products = bare.ask("products", shape=_common_shape(timings), rounds=plan.num_rounds)
  weight_bytes = {name: _weight_bytes(name, num_linear, num_other, density) for name in VARIANTS}
  return {
    **_summary(timings, plan.cpus),
    "weight_bytes": weight_bytes,
    "file_bytes": sum(os.path.getsize(file.path) for file in files.files.values()),
    "density": density,
    "parameters": num_linear + num_other,
    "limit_tokens_per_second": {name: bandwidth / _weight_bytes(name, num_linear, 0, density) for name in VARIANTS},
    **_break_even(products, masked),
    "products": products,
    "masked": masked,
    "is_interleaved": is_interleaved,
    "machine": described | {"bytes_per_second": bandwidth},
    "folder": plan.folder,
    "rounds": plan.num_rounds,
    "tokens_a_round": plan.num_tokens,
  }


def machine(cpus: Sequence[int]) -> dict[str, Any]:
  """What a reader needs to compare figures."""
  names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
  return {
    "processor": names[0] if names else platform.processor(),
    "instruction_set": isa(),
    "cpus": list(cpus),
    "cores": os.cpu_count(),
    "load": round(os.getloadavg()[0], 1),
    "python": platform.python_version(),
  }


def is_pinned(threads: Sequence[Mapping[str, Any]], cpus: Sequence[int]) -> bool:
  """Whether every thread that worked may use one core only, and together they used all of `cpus`."""
  return all(len(thread["allowed"]) == 1 for thread in threads) and {t["cpu"] for t in threads} == set(cpus)


def median_interval(values: Sequence[float], num_draws: int = 2000) -> tuple[float, float, float]:
  """The median and its 95 % interval by bootstrap."""
  generator = np.random.default_rng(0)
  medians = np.median(generator.choice(np.asarray(values), (num_draws, len(values))), axis=1)
  low, high = np.quantile(medians, [0.025, 0.975])
  return float(np.median(values)), float(low), float(high)


def _break_even(products: Mapping[str, Any], masked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  of_products = break_even.of_products(products)
  return {
    "break_even_density": of_products["sparse_int8"],
    "break_even_densities": of_products,
    "model_break_even_densities": break_even.of_model(masked) if masked else {},
  }


@contextlib.contextmanager
def _started(plan: BenchPlan, names: Sequence[str], say: Say) -> Iterator[dict[str, Variant]]:
  """Processes with a loaded variant each."""
  with contextlib.ExitStack() as stack:
    variants = {}
    for name in names:
      say(f"loading {name}")
      variants[name] = stack.enter_context(Variant(plan.folder, plan.cpus, name))
      variants[name].load()
    yield variants


def _measure(plan: BenchPlan, variants: Mapping[str, Variant], say: Say) -> dict[str, Timing]:
  timings = {name: Timing(variant.loaded) for name, variant in variants.items()}
  for round_number in range(plan.num_rounds):
    say(f"round {round_number + 1} of {plan.num_rounds}")
    for name, variant in variants.items():
      _take_turn(plan, variant, timings[name], _prompts(name, round_number))
  with tempfile.TemporaryDirectory() as folder:
    for name, variant in variants.items():
      path = os.path.join(folder, f"{name}.npy")
      variant.ask("logits", path=path)
      timings[name].logits = np.load(path)
      timings[name].threads = variant.ask("threads")["threads"]
  return timings


def _prompts(name: str, round_number: int) -> list[int]:
  """The prompts of a turn: a long one takes some variants a hundred times as long as a token, and varies less."""
  is_due = lambda n: n <= _LONG_PROMPT or round_number % 3 == 0
  is_quick = lambda n: name != "torch_csr" or n <= _LONGEST_OF_CSR or round_number == 0
  return [n for n in PROMPTS if is_due(n) and is_quick(n)]


def _mask_further(plan: BenchPlan, variants: Mapping[str, Variant], density: float, say: Say) -> list[dict[str, Any]]:
  """Dense variants and ours at lower densities, in turns."""
  names = (*DENSE, *OURS)

  def mask(density: float) -> None:
    say(f"masked further, to density {density:.3f}")
    for name in OURS:
      variants[name].ask("mask", density=density)

  def tokens_per_second() -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(_ROUNDS_MASKED):
      for name in names:
        seconds[name] += variants[name].ask("generate", tokens=plan.num_tokens)["seconds"]
    return {name: 1 / float(np.median(values)) for name, values in seconds.items()}

  return break_even.mask_in_steps(density, mask, tokens_per_second)


def _take_turn(plan: BenchPlan, variant: Variant, timing: Timing, prompts: Sequence[int]) -> None:
  answer = variant.ask("generate", tokens=plan.num_tokens)
  timing.tokens = answer["tokens"]
  timing.token_seconds.append(float(np.median(answer["seconds"])))
  for num_tokens in prompts:
    timing.prompt_seconds[num_tokens].append(variant.ask("prompt", tokens=num_tokens)["seconds"])


def _summary(timings: Mapping[str, Timing], cpus: Sequence[int]) -> dict[str, Any]:
  seconds = {name: median_interval(timing.token_seconds) for name, timing in timings.items()}
  reference = timings["dense_fp32"]
  return {
    "tokens_per_second": {name: 1 / median for name, (median, _, _) in seconds.items()},
    "tokens_per_second_interval": {name: [1 / high, 1 / low] for name, (_, low, high) in seconds.items()},
    "prompt_milliseconds": {
      name: {str(n): float(np.median(values)) * 1e3 for n, values in timing.prompt_seconds.items()}
      for name, timing in timings.items()
    },
    "resident_bytes": {name: timing.loaded["resident_bytes"] for name, timing in timings.items()},
    "libraries_bytes": reference.loaded["libraries_bytes"],
    "load_seconds": {name: timing.loaded["seconds"] for name, timing in timings.items()},
    "layouts": {name: timings[name].loaded["layouts"] for name in OURS},
    "first_different_token": {name: _first_different(reference.tokens, t.tokens) for name, t in timings.items()},
    "logits_difference": {
      name: float(np.abs(timing.logits - reference.logits).max()) for name, timing in timings.items()
    },
    "logits_size": float(np.abs(reference.logits).max()),
    "is_pinned": {name: is_pinned(timing.threads, cpus) for name, timing in timings.items()},
  }


def _first_different(reference: Sequence[int], tokens: Sequence[int]) -> int | None:
  """Index of the first token that is another one, None if all are the same."""
  return next((index for index, (a, b) in enumerate(zip(reference, tokens)) if a != b), None)


def _count(files: ModelFolder) -> tuple[int, int, float]:
  """Weights of the linear layers, other parameters, and the density of the former."""
  sizes = {name: math.prod(files.shape(name)) for name in files.names()}
  linears = files.linear_names()
  num_linear = sum(sizes[name] for name in linears)
  num_nonzero = sum(int(files.read_fields(name)["row_offsets"][-1]) for name in linears)
  return num_linear, sum(sizes.values()) - num_linear, num_nonzero / max(1, num_linear)


def _weight_bytes(name: str, num_linear: int, num_other: int, density: float) -> float:
  """Bytes of a variant's weights. Parameters outside of the linear layers have 2 bytes in the bfloat16 variants."""
  whole, kept = _BYTES_A_WEIGHT[name]
  other = 2 if name == "dense_bf16" or name in OURS else 4
  return num_linear * (whole + kept * density) + num_other * other


def _common_shape(timings: Mapping[str, Timing]) -> list[int]:
  """The shape that holds most of the weights."""
  shapes: list[list[int]] = timings[OURS[0]].loaded["shapes"]
  return max(shapes, key=lambda shape: shape[0] * shape[1] * shapes.count(shape))


def _free_bytes() -> float:
  for line in _lines("/proc/meminfo"):
    if line.startswith("MemAvailable:"):
      return int(line.split()[1]) * 1024.0
  return 8 * 2.0**30


def _lines(path: str) -> list[str]:
  return Path(path).read_text(encoding="utf-8").splitlines() if os.path.exists(path) else []
