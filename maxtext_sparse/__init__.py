"""Sparse pre-training of language models in MaxText, by gradual magnitude pruning.

In MaxText nothing of this module is needed: `maxtext-sparse train` does it all. In other training code, which needs jax
and optax alone, wrap the optimizer and mask the gradients:

  import jax, jax.numpy as jnp, optax
  from maxtext_sparse import Schedule, mask_gradients, prune

  params = {"hidden": {"kernel": jnp.ones((4, 8))}, "out": {"kernel": jnp.ones((8, 1)), "bias": jnp.zeros(1)}}
  is_prunable = lambda path: path.endswith("kernel")
  schedule = Schedule(steps=100, event_steps=(20, 30, 40), densities=(0.6, 0.4, 0.2))
  optimizer = prune(optax.adamw(1e-3), schedule, is_prunable)

  def loss(params, x, step):
    params = mask_gradients(params, is_prunable, step >= schedule.first_masked_step)
    return jnp.mean((jnp.tanh(x @ params["hidden"]["kernel"]) @ params["out"]["kernel"] + params["out"]["bias"] - 1) ** 2)

  @jax.jit
  def train_step(params, state, x, step):
    gradients = jax.grad(loss)(params, x, step)
    updates, state = optimizer.update(gradients, state, params, step=step)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  for step in range(schedule.steps):
    x = jax.random.normal(jax.random.key(step), (32, 4))
    params, state = train_step(params, state, x, step)

Importing this module is cheap: each name below is imported when it is first used.
"""

import importlib
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
  from maxtext_sparse.config import SparsityKeys
  from maxtext_sparse.hooks import install, installed, uninstall
  from maxtext_sparse.pruning.transform import assert_pruned, mask_gradients, prune
  from maxtext_sparse.rules import PruningRule
  from maxtext_sparse.schedule import build_schedule, Schedule

__version__ = "0.1.0"

__all__ = [
  "PruningRule",
  "Schedule",
  "SparsityKeys",
  "assert_pruned",
  "build_schedule",
  "install",
  "installed",
  "mask_gradients",
  "prune",
  "uninstall",
]

# Name -> the module that defines it.
_HOMES = {
  "PruningRule": "rules",
  "Schedule": "schedule",
  "SparsityKeys": "config",
  "assert_pruned": "pruning.transform",
  "build_schedule": "schedule",
  "install": "hooks",
  "installed": "hooks",
  "mask_gradients": "pruning.transform",
  "prune": "pruning.transform",
  "uninstall": "hooks",
}


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
