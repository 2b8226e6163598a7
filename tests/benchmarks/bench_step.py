"""Times MaxText's real train step, sparse against dense: `python tests/benchmarks/bench_step.py`.

Both runs train in one process on the same synthetic batch and take turns, step by step. The noise of the machine is
measured in the same way, as the ratio of even dense steps to odd ones.
"""

import argparse
from collections.abc import Sequence
import os
import tempfile
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import measure

NUM_STEPS, START, END, PERIOD = 150, 40, 110, 5
# Short periods give many events to time. A user pays for one event in each default period.
DEFAULT_PERIOD = 100
MODEL = (
  *("hardware=cpu", "skip_jax_distributed_system=True", "dataset_type=synthetic", "enable_checkpointing=False"),
  *("attention=dot_product", "dtype=float32", "weight_dtype=float32", "log_config=False", "enable_tensorboard=False"),
  *("base_emb_dim=256", "base_mlp_dim=1024", "base_num_decoder_layers=8", "vocab_size=4096"),
  *("base_num_query_heads=4", "base_num_kv_heads=4", "head_dim=64"),
  *("max_target_length=256", "per_device_batch_size=4"),
)
SPARSE = (
  "sparsity=0.8",
  f"gmp_start_step={START}",
  f"gmp_end_step={END}",
  f"gmp_pruning_frequency={PERIOD}",
)
PHASES = {
  "dense": lambda step: 5 <= step < START,
  "between events": lambda step: START < step < END and (step - START) % PERIOD > 0,
  "event": lambda step: START <= step <= END and (step - START) % PERIOD == 0,
  "recovery": lambda step: step > END,
}


class Trainer:
  """MaxText's jitted train step with its state."""

  def __init__(self, run_name: str, *overrides: str):
    from flax import nnx
    from maxtext.trainers.pre_train import train
    from maxtext.utils import sharding, train_utils

    run = (f"run_name={run_name}", f"steps={NUM_STEPS}", f"base_output_directory={tempfile.mkdtemp()}")
    self.config, recorder = train.initialize([train.__file__, *MODEL, *run, *overrides])
    parts = train_utils.setup_train_loop(self.config, recorder)
    shardings, self.mesh, loader = parts[2], parts[4], parts[7]
    graph, self.state = nnx.split(parts[-1])
    params, shardings = sharding.maybe_update_params_sharding_with_opt(self.config, shardings)
    self._step, _ = train_utils.jit_train_and_eval_step(
      self.config, graph, self.mesh, self.state, shardings, train.train_step, train.eval_step, None, params
    )
    self.batch = loader.load_next_batch()

  def step(self) -> float:
    """Takes one step, waits for it, and returns its seconds."""
    from flax.linen import partitioning
    import jax

    begin = time.perf_counter()
    with jax.set_mesh(self.mesh), partitioning.axis_rules(self.config.logical_axis_rules):
      self.state, metrics = self._step(self.state, self.batch)
    jax.block_until_ready((self.state, metrics))
    return time.perf_counter() - begin


def run() -> tuple[list[float], list[float]]:
  """Seconds of each step, dense and sparse."""
  from maxtext_sparse import hooks

  with hooks.installed():
    dense, sparse = Trainer("dense"), Trainer("sparse", *SPARSE)
    pairs = []
    for step in range(NUM_STEPS):
      order = (dense, sparse) if step % 2 else (sparse, dense)
      seconds = {id(trainer): trainer.step() for trainer in order}
      pairs.append((seconds[id(dense)], seconds[id(sparse)]))
  return [p[0] for p in pairs], [p[1] for p in pairs]


def main() -> None:
  argparse.ArgumentParser(description=__doc__).parse_args()
  dense, sparse = run()
  results: dict[str, Any] = {}
  rows = []
  for phase, belongs in PHASES.items():
    steps = [step for step in range(NUM_STEPS) if belongs(step)]
    ratio = measure.ratio_interval([sparse[s] for s in steps], [dense[s] for s in steps])
    results[phase] = {"steps": len(steps), "ratio": ratio}
    rows.append(_row(phase, len(steps), ratio))
  even, odd = dense[6::2], dense[5::2]
  between, event = results["between events"]["ratio"], results["event"]["ratio"]
  amortised = tuple(b + (e - b) / DEFAULT_PERIOD for b, e in zip(between, event))
  results |= {"amortised": amortised, "noise": measure.ratio_interval(even, odd)}
  rows.append(_row(f"amortised over P = {DEFAULT_PERIOD}", "", amortised))
  rows.append(_row("dense against dense (noise)", len(even), results["noise"]))
  results |= {"dense_seconds": dense, "sparse_seconds": sparse}
  header = ["phase", "steps", "sparse / dense", "95 % interval"]
  measure.publish("step", results, measure.markdown(header, rows))


def _row(name: str, count: int | str, ratio: Sequence[float]) -> list[str]:
  return [name, str(count), f"{ratio[0]:.3f}", f"{ratio[1]:.3f} to {ratio[2]:.3f}"]


if __name__ == "__main__":
  main()
