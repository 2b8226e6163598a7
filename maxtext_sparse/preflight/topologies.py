"""The TPU topologies that MaxText compiles for, and their chips."""

import importlib.util
import os
import re
from typing import Any

from maxtext_sparse.config_files import maxtext_folder
from maxtext_sparse.errors import ConfigError, nearest
from maxtext_sparse.preflight.chips import CHIPS
from maxtext_sparse.preflight.roofline import Slice

_TABLE = "accelerator_to_spec_map.py"
# Sizes of a generation that a message shows; some have 98.
_MOST_SIZES = 12


def check_topology(name: str) -> None:
  """Raises ConfigError, with the names that MaxText knows, if `name` is not one of them."""
  known = topologies()
  if name in known:
    return
  generation, _, number = name.partition("-")
  related = [other for other in known if other.split("-")[0] == generation]
  if related and number.isdecimal():
    near: str | None = min(related, key=lambda other: abs(int(other.split("-")[1]) - int(number)))
  else:
    near = nearest(name, known, cutoff=0.5)
  hint = f"did you mean {near}? " if near else ""
  raise ConfigError(f"--topology={name}: unknown, {hint}MaxText knows {_listed(related or known)}")


def topologies() -> list[str]:
  """Names of TPU topologies, such as v5p-128. The number counts TensorCores, and chips for v5e and v6e."""
  return [name for name, system in _table().items() if system.platform == "tpu"]


def slice_of(topology: str, num_slices: int = 1) -> Slice:
  """The devices of a topology that MaxText knows."""
  system = _table()[topology]
  is_closed = bool(system.wrap) and any(system.wrap)
  return Slice(CHIPS[topology.split("-")[0]], system.devices_per_slice * num_slices, is_closed)


def _table() -> dict[str, Any]:
  """MaxText's table of topologies; empty without MaxText."""
  folder = maxtext_folder("utils")
  if folder is None:
    return {}
  # The table imports nothing, and its package would import jax.
  spec = importlib.util.spec_from_file_location("maxtext_topologies", os.path.join(folder, _TABLE))
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  table: dict[str, Any] = module.UserFacingNameToSystemCharacteristics
  return table


def _listed(names: list[str]) -> str:
  """Writes names by generation, such as `v5e-{1, 4, 8}`."""
  sizes: dict[str, list[str]] = {}
  for name in names:
    match = re.fullmatch(r"(.*)-(\w+)", name)
    assert match
    sizes.setdefault(match[1], []).append(match[2])
  short = {key: found if len(found) <= _MOST_SIZES else [*found[:6], "...", found[-1]] for key, found in sizes.items()}
  return ", ".join(f"{generation}-{{{', '.join(found)}}}" for generation, found in short.items())
