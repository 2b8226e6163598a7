"""How weights are pruned: the rule that a set of parameters follows. Plain data, without jax.

A rule says how sparse its parameters become, which weights compete with each other (scope), in which shape they go
(structure), what ranks them (score), and along which curve (schedule). A run has one rule, or one for each group of
parameters (`prune_groups`).
"""

import dataclasses
import importlib
import re
from typing import Any

from maxtext_sparse.errors import ConfigError

SCOPES = ("global", "per_matrix", "erk")
SCORES = ("magnitude", "magnitude_rms", "random")
SCHEDULES = ("geometric", "cubic", "linear")

_STRUCTURE_EXAMPLES = "must be none, n:m with 0 < n < m such as 2:4, or block:RxC such as block:16x16"


@dataclasses.dataclass(frozen=True)
class NOfM:
  """Of every m neighbours along a kernel's contraction axis, n are kept."""

  n: int
  m: int

  @property
  def density(self) -> float:
    return self.n / self.m

  def __str__(self) -> str:
    return f"{self.n}:{self.m}"


@dataclasses.dataclass(frozen=True)
class Block:
  """Weights go in whole blocks: `rows` neighbours along the contraction axis times `columns` along the output axis."""

  rows: int
  columns: int

  @property
  def size(self) -> int:
    return self.rows * self.columns

  def __str__(self) -> str:
    return f"block:{self.rows}x{self.columns}"


Structure = NOfM | Block


def parse_structure(text: str) -> Structure | None:
  """`none` as None, `2:4` as NOfM(2, 4), `block:16x8` as Block(16, 8).

  Raises:
    ValueError: it is none of these.
  """
  if text == "none":
    return None
  n_of_m = re.fullmatch(r"(\d+):(\d+)", text)
  if n_of_m and 0 < int(n_of_m[1]) < int(n_of_m[2]):
    return NOfM(int(n_of_m[1]), int(n_of_m[2]))
  block = re.fullmatch(r"block:(\d+)x(\d+)", text)
  if block and int(block[1]) > 0 and int(block[2]) > 0:
    return Block(int(block[1]), int(block[2]))
  raise ValueError(_STRUCTURE_EXAMPLES)


@dataclasses.dataclass(frozen=True)
class PruningRule:
  """One way of pruning.

  Attributes:
    sparsity: S, final share of the rule's weights removed; 0 leaves them dense.
    scope: `global`, all weights of the rule compete; `per_matrix`, each matrix loses the same share; `erk`, each matrix
      gets a share by its shape (Erdos-Renyi kernel).
    structure: None for single weights, or in which shape weights go.
    score: `magnitude`, `magnitude_rms`, `random`, or `package.module:function`.
    schedule: how the density falls from event to event: `geometric`, `cubic` or `linear`.
    min_matrix_density: under scope `global`, no matrix falls below it.
    seed: of score `random`.
  """

  sparsity: float
  scope: str = "global"
  structure: Structure | None = None
  score: str = "magnitude"
  schedule: str = "geometric"
  min_matrix_density: float = 0.0
  seed: int = 0

  def describe(self) -> str:
    """One phrase for records and messages, such as `80 % global`, or `50 % per_matrix 2:4 by magnitude_rms, cubic`."""
    words = [f"{100 * self.sparsity:g} %", self.scope, *([str(self.structure)] if self.structure else [])]
    words += [f"by {self.score}"] if self.score != "magnitude" else []
    words += [f"(seed {self.seed})"] if self.score == "random" else []
    words += [f"at least {self.min_matrix_density:g} of each matrix"] if self.min_matrix_density else []
    return " ".join(words) + ("" if self.schedule == "geometric" else f", {self.schedule}")


def check_rule(rule: PruningRule, where: str = "") -> None:
  """Refuses a rule whose parts contradict each other.

  Args:
    rule: the rule.
    where: put before the keys in the message, such as `prune_groups[0].`; then they are named without `pruning_`.

  Raises:
    ConfigError: naming the key at fault.
  """
  key = lambda name: f"{where}{name}" if where else f"pruning_{name}"
  if isinstance(rule.structure, NOfM):
    implied = 1.0 - rule.structure.density
    if abs(rule.sparsity - implied) > 1e-9:
      raise ConfigError(
        f"{where}sparsity={rule.sparsity:g}: {key('structure')}={rule.structure} makes it {implied:g}, leave it out"
      )
    if rule.scope == "erk":
      raise ConfigError(f"{key('scope')}=erk: {rule.structure} gives every matrix one density, use global or per_matrix")
  if rule.structure is not None and rule.min_matrix_density > 0:
    raise ConfigError(
      f"min_matrix_density={rule.min_matrix_density:g}: works without a structure, set {key('structure')}=none"
    )
  if rule.min_matrix_density > 0 and rule.scope != "global":
    raise ConfigError(
      f"min_matrix_density={rule.min_matrix_density:g}: {key('scope')}={rule.scope} sets every matrix's density itself, "
      "use global"
    )
  if rule.sparsity > 0 and rule.min_matrix_density > 1.0 - rule.sparsity + 1e-9:
    raise ConfigError(
      f"min_matrix_density={rule.min_matrix_density:g}: must be at most 1 - sparsity = {1.0 - rule.sparsity:g}"
    )


def is_function_name(score: str) -> bool:
  """Whether a score is spelt like a user's function, `package.module:function`."""
  return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", score) is not None


def load_function(score: str) -> Any:
  """The user's function that a score `package.module:function` names.

  Raises:
    ConfigError: its module cannot be imported, or has no such function.
  """
  module_name, _, name = score.partition(":")
  try:
    function = getattr(importlib.import_module(module_name), name)
  except ImportError as error:
    raise ConfigError(f"pruning_score={score}: cannot import {module_name} ({error})") from error
  except AttributeError:
    raise ConfigError(f"pruning_score={score}: {module_name} has no function {name}") from None
  if not callable(function):
    raise ConfigError(f"pruning_score={score}: {name} is no function, but {type(function).__name__}")
  return function
