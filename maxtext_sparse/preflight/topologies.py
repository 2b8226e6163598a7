"""The TPU topologies that MaxText compiles for, and the memory of their chips."""

import difflib
import re

from maxtext_sparse.errors import ConfigError

# GiB of HBM that one jax device has; a tpu7x chip of 192 is two devices. Cloud TPU documentation, system architecture.
_HBM_GIB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32, "tpu7x": 96}


def check_topology(name: str) -> None:
  """Raises ConfigError for a name that MaxText does not know, with those that it does."""
  known = topologies()
  if name in known:
    return
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  generation = name.split("-")[0]
  related = [other for other in known if other.split("-")[0] == generation]
  hint = f"did you mean {near[0]}? " if near else ""
  raise ConfigError(f"--topology={name}: unknown, {hint}MaxText knows {_listed(related or known)}")


def topologies() -> list[str]:
  """Names of TPU topologies, such as v5p-128; after `-` the number of TensorCores, or of chips for v5e and v6e."""
  from maxtext.utils.accelerator_to_spec_map import UserFacingNameToSystemCharacteristics as table

  return [name for name, system in table.items() if system.platform == "tpu"]


def hbm_bytes(topology: str) -> int | None:
  """Memory of one device; None for a generation that came later."""
  gib = _HBM_GIB.get(topology.split("-")[0])
  return gib * 2**30 if gib else None


def _listed(names: list[str]) -> str:
  """Names by generation: `v5e-{1, 4, 8}`."""
  sizes: dict[str, list[str]] = {}
  for name in names:
    match = re.fullmatch(r"(.*)-(\w+)", name)
    assert match
    sizes.setdefault(match[1], []).append(match[2])
  return ", ".join(f"{generation}-{{{', '.join(found)}}}" for generation, found in sizes.items())
