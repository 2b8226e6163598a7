"""The TPU topologies that MaxText compiles for, and the memory of their chips."""

import importlib.util
import os
import re

from maxtext_sparse.config_files import maxtext_folder
from maxtext_sparse.errors import ConfigError, nearest

_TABLE = "accelerator_to_spec_map.py"
# HBM of one jax device in GiB, from the Cloud TPU documentation. A tpu7x chip with 192 GiB is two devices.
_HBM_GIB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32, "tpu7x": 96}


def check_topology(name: str) -> None:
  """Raises ConfigError, with the names that MaxText knows, if `name` is not one of them."""
  known = topologies()
  if name in known:
    return
  near = nearest(name, known, cutoff=0.5)
  generation = name.split("-")[0]
  related = [other for other in known if other.split("-")[0] == generation]
  hint = f"did you mean {near}? " if near else ""
  raise ConfigError(f"--topology={name}: unknown, {hint}MaxText knows {_listed(related or known)}")


def topologies() -> list[str]:
  """Names of TPU topologies, such as v5p-128. The number counts TensorCores, and chips for v5e and v6e."""
  folder = maxtext_folder("utils")
  if folder is None:
    return []
  # The table imports nothing, and its package would import jax.
  spec = importlib.util.spec_from_file_location("maxtext_topologies", os.path.join(folder, _TABLE))
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  table = module.UserFacingNameToSystemCharacteristics
  return [name for name, system in table.items() if system.platform == "tpu"]


def hbm_bytes(topology: str) -> int | None:
  """Memory of one device, None for a generation that we do not know."""
  gib = _HBM_GIB.get(topology.split("-")[0])
  return gib * 2**30 if gib else None


def _listed(names: list[str]) -> str:
  """Writes names by generation, such as `v5e-{1, 4, 8}`."""
  sizes: dict[str, list[str]] = {}
  for name in names:
    match = re.fullmatch(r"(.*)-(\w+)", name)
    assert match
    sizes.setdefault(match[1], []).append(match[2])
  return ", ".join(f"{generation}-{{{', '.join(found)}}}" for generation, found in sizes.items())
