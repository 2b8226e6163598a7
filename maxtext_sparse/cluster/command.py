"""Turns a run into the one line of bash that a pod executes. No local file has to reach the pod."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from maxtext_sparse.arguments import check_arguments, parse_value, split_words
from maxtext_sparse.cluster.quoting import kubernetes_literal, refuse_line_breaks, shell_word, to_text
from maxtext_sparse.config_files import flatten, merge_configs, STOCK, stock_name
from maxtext_sparse.errors import ConfigError

MODULE = "maxtext_sparse.train"
# MaxText's own launcher exports the same: the host's CPU backend beside the TPU, and the PJRT API of the image's libtpu.
EXPORTS = {"JAX_PLATFORMS": "tpu,cpu", "ENABLE_PJRT_COMPATIBILITY": "true"}

# After SIGTERM, MaxText may save a checkpoint and end with status 0, and the workload would count as finished. The pod
# ends with 143 instead, the status of a process that SIGTERM killed, so that the workload restarts.
_TRAP = "trap 'kill -TERM $!; preempted=143' TERM"
_WAIT = "wait $!; status=$?; wait; exit ${preempted:-$status}"


@dataclasses.dataclass(frozen=True)
class Arguments:
  """The arguments of one run's `python3 -m maxtext_sparse.train`.

  Attributes:
    base: the name of MaxText's own base config, such as `base.yml`.
    keys: keys and values from the config files, in their order.
    overrides: the `key=value` texts as the user gave them. They win over `keys`.
  """

  base: str
  keys: Mapping[str, Any]
  overrides: tuple[str, ...] = ()

  @property
  def values(self) -> dict[str, Any]:
    """All keys that the run sets itself. Those that only MaxText's base config sets are missing."""
    given = (override.partition("=") for override in self.overrides)
    return {**self.keys, **{key: parse_value(text) for key, _, text in given}}

  def with_default(self, key: str, value: Any) -> "Arguments":
    """Returns a copy that also sets `key`, if `key` is missing or empty."""
    if self.values.get(key):
      return self
    others = [override for override in self.overrides if override.partition("=")[0] != key]
    return dataclasses.replace(self, overrides=(*others, f"{key}={to_text(value)}"))

  def words(self) -> list[str]:
    """The words of the command line. Each key appears once, except mappings, which MaxText merges."""
    overridden = {override.partition("=")[0] for override in self.overrides}
    kept = {key: value for key, value in self.keys.items() if key not in overridden or isinstance(value, dict)}
    return [self.base, *(f"{key}={to_text(value)}" for key, value in kept.items()), *self.overrides]


def read_arguments(words: Sequence[str]) -> Arguments:
  """Reads `CONFIG [CONFIG ...] [key=value ...]` as `train` does, and follows `base_config` through the local files.

  Raises:
    ConfigError: an argument cannot work, or two configs have different bases.
  """
  for word in words:
    refuse_line_breaks(word)
  check_arguments(words, environment={})  # the variables of this machine do not reach the pod
  configs, overrides = split_words(words)
  stock = [name for config in configs if (name := stock_name(config))]
  local = [config for config in configs if not stock_name(config)]
  keys: dict[str, Any] = flatten(merge_configs(local)) if local else {"base_config": [*stock, STOCK][0]}
  base = keys.pop("base_config")
  for other in stock:
    if other != base:
      raise ConfigError(f"{other}: the other configs are based on {base}, keep one base")
  # MaxText lets the axis rules of a file replace its own, but merges those of an argument unless this key is set.
  if "logical_axis_rules" in keys:
    keys["override_logical_axis_rules"] = True
  return Arguments(base, keys, tuple(overrides))


def training_command(words: Sequence[str], exports: Mapping[str, str]) -> str:
  """Returns bash that trains and survives a preemption, ready to be pasted into a manifest.

  Args:
    words: the arguments of `python3 -m maxtext_sparse.train`.
    exports: environment variables of the run.

  Raises:
    ConfigError: a word or a value has a line break.
  """
  export = " ".join(f"{name}={shell_word(value)}" for name, value in exports.items())
  train = " ".join(shell_word(word) for word in words)
  return kubernetes_literal(f"export {export}; {_TRAP}; python3 -m {MODULE} {train} & {_WAIT}")
