"""Compiles small programs for four TPU chips and writes their texts: `python tests/preflight/tpu_programs.py OUT.json`.

It runs in a process of its own, because the tests keep jax on the CPU.
"""

import functools
import json
import sys

import jax
from jax.experimental import topologies
import jax.numpy as jnp
from maxtext.utils.accelerator_to_spec_map import get_system_characteristics
import numpy as np
import optax

from maxtext_sparse import mask_gradients, prune, Schedule

NUM_LAYERS, WIDTH, BATCH = 6, 512, 4096
# Of a device: more than fits into the memory of a core.
PRUNED = {"small": 16, "large": 32}
ROWS, COLUMNS = 4096, 2048


def main(out: str) -> None:
  """Compiles all programs."""
  system = get_system_characteristics("v5e-4")
  topology = topologies.get_topology_desc(
    platform="tpu",
    topology_name=system.topology_name,
    chip_config_name=system.chip_config_name,
    chips_per_host_bounds=system.chips_per_host_bounds,
    num_slices=1,
    wrap=system.wrap,
  )
  mesh = jax.sharding.Mesh(np.array(topology.devices), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
  with jax.set_mesh(mesh):
    texts = {name: layers(name == "scanned") for name in ("scanned", "unscanned")}
    texts |= {name: pruning(matrices) for name, matrices in PRUNED.items()}
  with open(out, "w", encoding="utf-8") as file:
    json.dump(texts, file)


def layers(is_scanned: bool) -> str:
  """A gradient step of layers whose weights are split over the devices."""

  def loss(weights, x):
    layer = lambda h, w: (jnp.tanh(h @ w), None)
    if is_scanned:
      x, _ = jax.lax.scan(layer, x, weights)
    else:
      for index in range(NUM_LAYERS):
        x, _ = layer(x, weights[index])
    return jnp.sum(x.astype(jnp.float32))

  step = jax.grad(loss, argnums=(0, 1))
  weights = shaped((NUM_LAYERS, WIDTH, WIDTH), jnp.bfloat16, jax.P(None, "fsdp", None))
  return compiled(step, weights, shaped((BATCH, WIDTH), jnp.bfloat16, jax.P("fsdp", None)))


def pruning(num_matrices: int) -> str:
  """An update with pruning events of one stacked array."""
  schedule = Schedule(steps=100, event_steps=(20, 40), densities=(0.6, 0.2))
  optimizer = prune(optax.sgd(1.0), schedule, ("kernel",))

  def update(weights, gradients, step):
    masked = functools.partial(mask_gradients, is_prunable=("kernel",), is_masked=step > 20)
    gradients = jax.vjp(masked, weights)[1](gradients)[0]
    updates, _ = optimizer.update(gradients, optimizer.init(weights), weights, step=step)
    return optax.apply_updates(weights, updates)

  spec = jax.P(None, "fsdp", None)
  weights = {"kernel": shaped((num_matrices, ROWS, COLUMNS), jnp.float32, spec)}
  return compiled(update, weights, weights, shaped((), jnp.int32, jax.P()))


def shaped(shape, dtype, spec) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(jax.sharding.get_mesh(), spec))


def compiled(function, *arguments) -> str:
  lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",))
  return lowered.compile().as_text()


if __name__ == "__main__":
  main(sys.argv[1])
