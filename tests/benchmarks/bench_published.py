"""Holds the roofline against the speeds that MaxText publishes: `python tests/benchmarks/bench_published.py [NAME ...]`.

MaxText's documentation lists models that were tuned for TPU pods, with the utilisation (MFU) and the tokens a second that
were measured, and recipes that set their keys. This compiles the dense step of each recipe and gives what the peak rates
of the chips would allow. A result is kept in `build/benchmarks/published`; what is not named and not there is not done.
"""

import argparse
import dataclasses
import json
from typing import Any

import measure

from maxtext_sparse.preflight.compare import compile_dense
from maxtext_sparse.preflight.roofline import time_of
from maxtext_sparse.preflight.topologies import slice_of

# What the recipes say of the kernel's blocks, and of what they keep in the memory of the host.
_BLOCKS = tuple(
  f"sa_block_{name}=2048" for name in ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
)
_QUERY_BLOCKS = ("sa_block_q=2048", "sa_block_q_dkv=2048", "sa_block_q_dq=2048")
_DROPPING = ("megablox=false", "sparse_matmul=false", "capacity_factor=1.25")
_SOME_BLOCKS = ("sa_block_q=1024", "sa_block_q_dkv=2048", "sa_block_q_dq=2048")
_QKV = ("decoder_layer_input=offload", "query_proj=offload", "key_proj=offload", "value_proj=offload")
_OFFLOADED = ("remat_policy=custom", *_QKV, "out_proj=offload")
_FUSED = (*_BLOCKS, "sa_use_fused_bwd_kernel=true")
_TRANSPOSED = ("ici_fsdp_parallelism=1", "ici_fsdp_transpose_parallelism=-1")


@dataclasses.dataclass(frozen=True)
class Published:
  """One row of MaxText's documentation, reference/models/tiering, read in November 2026.

  Attributes:
    topology: a name that MaxText knows.
    mfu: model FLOPs utilisation. Results from before MaxText halved the FLOPs of causal attention are higher.
    tokens: a second and a chip.
    arguments: those keys of the recipe that change the train step. Its compiler flags are left out.
  """

  topology: str
  mfu: float
  tokens: float
  arguments: tuple[str, ...]


def _llama(name: str, batch: int, length: int, *others: str) -> tuple[str, ...]:
  return (f"model_name={name}", f"per_device_batch_size={batch}", f"max_target_length={length}", *others)


CASES = {
  "llama3.1-8b, v6e-256": Published("v6e-256", 0.4546, 7207, _llama("llama3.1-8b", 4, 8192, *_OFFLOADED, *_FUSED)),
  "llama2-70b, v6e-256": Published(
    *("v6e-256", 0.438, 900),
    _llama("llama2-70b", 2, 4096, "remat_policy=qkv_proj_offloaded", *_TRANSPOSED, *_SOME_BLOCKS),
  ),
  "llama3.1-70b, v6e-256": Published(
    *("v6e-256", 0.5033, 960),
    _llama("llama3.1-70b", 4, 8192, "remat_policy=custom", *_QKV, *_FUSED),
  ),
  "mixtral-8x7b, v6e-256": Published(
    *("v6e-256", 0.3523, 3899),
    _llama("mixtral-8x7b", 12, 4096, *_OFFLOADED, *_QUERY_BLOCKS, *_DROPPING),
  ),
  "llama2-70b, v5p-1024": Published(
    "v5p-1024", 0.654, 692, _llama("llama2-70b", 4, 4096, "remat_policy=save_dot_except_mlpwi")
  ),
  "mixtral-8x7b, v5p-512": Published("v5p-512", 0.5256, 2909, _llama("mixtral-8x7b", 36, 4096, "weight_dtype=bfloat16")),
}
_COMMON = ("steps=1000", "attention=flash", "use_iota_embed=true", "dataset_type=synthetic")
_HEADER = (
  *("model", "MFU, published", "at peak rates", "published / peak"),
  *("tokens a second a chip, published", "at peak rates", "published / peak"),
)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("names", nargs="*", default=list(CASES), help="cases to compile; all by default")
  for name in parser.parse_args().names:
    compile_case(name)
  found = {name: json.loads(path(name).read_text()) for name in CASES if path(name).exists()}
  rows = [row(name, case, found.get(name)) for name, case in CASES.items()]
  measure.publish("published", found, measure.markdown(_HEADER, rows))


def path(name: str) -> Any:
  """Where the result of a case is kept."""
  return measure.OUT / "published" / f"{name.replace(', ', '-')}.json"


def compile_case(name: str) -> None:
  """Compiles a case, if that was not done before, and keeps what its step takes at peak rates."""
  if path(name).exists():
    return
  case = CASES[name]
  where = slice_of(case.topology)
  run, step = compile_dense([*case.arguments, *_COMMON], case.topology, print)
  result: dict[str, Any] = {"fits": not step.out_of_memory}
  if not step.out_of_memory:
    seconds = time_of(step.work.step, where).seconds
    tokens = run.tokens_per_step / seconds / where.num_chips
    result |= {"seconds": seconds, "mfu": run.utilisation(seconds, where), "tokens": tokens, "flops": step.flops}
  path(name).parent.mkdir(parents=True, exist_ok=True)
  path(name).write_text(json.dumps(result))


def row(name: str, case: Published, result: dict[str, Any] | None) -> list[str]:
  """What was published beside what peak rates allow."""
  mfu, tokens = f"{case.mfu:.1%}", f"{case.tokens:,.0f}"
  if result is None or not result["fits"]:
    reason = "does not fit" if result else "not compiled"
    return [name, mfu, reason, "", tokens, "", ""]
  mfus = mfu, f"{result['mfu']:.1%}", f"{case.mfu / result['mfu']:.2f}"
  speeds = tokens, f"{result['tokens']:,.0f}", f"{case.tokens / result['tokens']:.2f}"
  return [name, *mfus, *speeds]


if __name__ == "__main__":
  main()
