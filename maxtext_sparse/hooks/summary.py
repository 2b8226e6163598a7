"""The last words of a run: steps, loss, density, parameters, compute, time, and where its files are."""

import dataclasses
import os
import time
from typing import Any

from maxtext_sparse.hooks.run_guard import last_step, run_folder, saved_steps
from maxtext_sparse.hooks.sparse_run import SparseRun
from maxtext_sparse.terminal import short


@dataclasses.dataclass
class _Seen:
  """What the metrics of the run in this process said last."""

  began: float
  # Scalars of the devices, which are read at the end only.
  loss: Any = None
  eval_loss: Any = None


_seen = _Seen(0.0)


def begin() -> None:
  """Forgets the run before."""
  global _seen
  _seen = _Seen(time.monotonic())


def note(scalars: Any) -> None:
  """Keeps the losses of a row of metrics."""
  if "learning/loss" in scalars:
    _seen.loss = scalars["learning/loss"]
  if "eval/avg_loss" in scalars:
    _seen.eval_loss = scalars["eval/avg_loss"]


def describe(config: Any, run: SparseRun | None) -> str:
  """Several lines, the first of which begins with the run's name."""
  step = last_step()
  parts = [f"is finished: {config.steps} steps"]
  if step is not None and step < config.steps - 1:  # only a dense run may end so, and MaxText calls it a success
    parts = [f"ended early, after step {step} of {config.steps}; the data may have run out"]
  if _seen.loss is not None:
    parts.append(f"loss {float(_seen.loss):.4f}")
  if _seen.eval_loss is not None:
    parts.append(f"eval loss {float(_seen.eval_loss):.4f}")
  if run is not None:
    scalars = run.monitor.scalars(config.steps - 1)
    parts.append(f"density {scalars['pruning/density']:.4f}")
    parts.append(f"{short(scalars['pruning/average_params'])} average parameters")
    if "pruning/effective_flops" in scalars:
      parts.append(f"{scalars['pruning/effective_flops']:.3e} effective FLOPs")
  parts.append(f"{time.monotonic() - _seen.began:.0f} s in this process")
  places = [f"  {name}: {place}" for name, place in _places(config, run).items()]
  return "\n".join([f"run {config.run_name} {', '.join(parts)}", *places])


def _places(config: Any, run: SparseRun | None) -> dict[str, str]:
  places = {}
  steps = saved_steps(config.checkpoint_dir) if config.enable_checkpointing else []
  if steps:
    places["checkpoint"] = os.path.join(config.checkpoint_dir, str(steps[-1]))
  if config.metrics_file:
    places["metrics"] = config.metrics_file
  if run is not None:
    places["records"] = os.path.join(run_folder(config) or os.path.dirname(config.checkpoint_dir), "sparsity")
  return places
