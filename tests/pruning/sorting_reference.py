"""Events in numpy, by sorting: which weights of a few arrays survive under a rule. The tests of events compare with this.

It lists every weight, or every block, sorts what competes, and keeps the first ones. With the package it shares the
definition of a rule and of a parameter's axes, and the hash that breaks ties, which it writes out.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from fractions import Fraction
import itertools
import math

import jax.numpy as jnp
import numpy as np

from maxtext_sparse.pruning.prunable import Parameter
from maxtext_sparse.rules import Block, NOfM, PruningRule
from tests.pruning.test_threshold import reference_hash

Arrays = Mapping[str, np.ndarray]
Index = tuple[int, ...]
# The parameter's path and the place of the matrix in its stack. () where all weights of a rule compete.
Matrix = tuple


def gradient_score(weight, parameter, gradient):
  """A user's score that needs the gradient: the larger the product, the longer a weight lives."""
  assert parameter.shape == weight.shape
  return jnp.abs(weight.astype(jnp.float32) * gradient)


GRADIENT_SCORE = f"{__name__}:gradient_score"


@dataclasses.dataclass(frozen=True)
class Entry:
  """One thing that lives or dies: a weight, or a block of them."""

  path: str
  matrix: Matrix
  indices: tuple[Index, ...]
  score: float
  tie: int


@dataclasses.dataclass(frozen=True)
class Arena:
  """Arrays that follow one rule.

  Attributes:
    rule: the rule.
    parameters: the arrays, in order.
    offset: the number of prunable weights before the first array, from which hashes count.
  """

  rule: PruningRule
  parameters: tuple[Parameter, ...]
  offset: int = 0

  @property
  def offsets(self) -> dict[str, int]:
    before = itertools.accumulate((p.size for p in self.parameters), initial=self.offset)
    return {p.path: start for p, start in zip(self.parameters, before)}

  def masks(self, weights: Arrays, gradients: Arrays | None, counts: Sequence[int]) -> dict[str, np.ndarray]:
    """What survives an event that leaves `counts` weights: of all arrays together under scope global, else of each."""
    entries = self._entries(weights, gradients)
    kept = self._protected(entries)
    safe = {id(entry) for entry in kept}
    for contest, number in self._shares(counts).items():
      candidates = [e for e in entries if id(e) not in safe and contest in ((), e.matrix)]
      kept += best(candidates, max(0, number - self._places(contest)))
    masks = {p.path: np.zeros(p.shape, bool) for p in self.parameters}
    for entry in kept:
      for index in entry.indices:
        masks[entry.path][index] = weights[entry.path][index] != 0
    return masks

  def _entries(self, weights: Arrays, gradients: Arrays | None) -> list[Entry]:
    make = block_entries if isinstance(self.rule.structure, Block) else weight_entries
    entries = []
    for parameter in self.parameters:
      weight, offset = weights[parameter.path], self.offsets[parameter.path]
      score = scores(self.rule, parameter, weight, None if gradients is None else gradients[parameter.path], offset)
      entries += make(self.rule, parameter, weight, score, offset)
    return entries

  def _protected(self, entries: Sequence[Entry]) -> list[Entry]:
    """The n best of each group of m, or the best of each matrix up to its floor."""
    of_path = {p.path: p for p in self.parameters}
    families: dict[tuple, tuple[int, list[Entry]]] = {}
    for entry in entries:
      if isinstance(self.rule.structure, NOfM):
        axis, index = of_path[entry.path].contraction_axes[-1], entry.indices[0]
        key = (entry.path, *index[:axis], index[axis] // self.rule.structure.m, *index[axis + 1 :])
        families.setdefault(key, (self.rule.structure.n, []))[1].append(entry)
      elif self.rule.min_matrix_density:
        families.setdefault(entry.matrix, (floor(self.rule, of_path[entry.path]), []))[1].append(entry)
    return [entry for number, members in families.values() for entry in best(members, number)]

  def _shares(self, counts: Sequence[int]) -> dict[Matrix, int]:
    """How many entries of each contest survive. The matrices of an array share evenly, the first take what is over."""
    unit = self.rule.structure.size if isinstance(self.rule.structure, Block) else 1
    if self.rule.scope == "global":
      return {(): counts[0] // unit}
    shares = {}
    for parameter, count in zip(self.parameters, counts):
      each, over = divmod(count // unit, parameter.num_matrices)
      for place, matrix in enumerate(matrices_of(parameter)):
        shares[matrix] = each + (place < over)
    return shares

  def _places(self, contest: Matrix) -> int:
    """How many of a contest's places are protected, live or not."""
    sizes = {matrix: p for p in self.parameters for matrix in matrices_of(p)}
    members = [p for matrix, p in sizes.items() if contest in ((), matrix)]
    if isinstance(self.rule.structure, NOfM):
      return sum(p.matrix_size for p in members) * self.rule.structure.n // self.rule.structure.m
    return sum(floor(self.rule, p) for p in members)


def matrices_of(parameter: Parameter) -> list[Matrix]:
  return [(parameter.path, *place) for place in itertools.product(*map(range, parameter.stack_shape))]


def floor(rule: PruningRule, parameter: Parameter) -> int:
  """Fewest weights of a matrix under `min_matrix_density`."""
  return math.ceil(Fraction(str(rule.min_matrix_density)) * parameter.matrix_size)


def best(entries: Sequence[Entry], number: int) -> list[Entry]:
  return sorted(entries, key=lambda e: (e.score, e.tie), reverse=True)[:number]


def hashes(offset: int, shape, seed: int = 0) -> np.ndarray:
  index = (np.arange(np.prod(shape), dtype=np.uint32) + np.uint32(offset)).reshape(shape)
  return reference_hash(index ^ reference_hash(np.uint32([seed])).view(np.uint32) if seed else index)


def scores(rule: PruningRule, parameter: Parameter, weight: np.ndarray, gradient, offset: int) -> np.ndarray:
  w = weight.astype(np.float32)
  if rule.score == "random":
    return ((hashes(offset, w.shape, rule.seed + 1).view(np.uint32) >> 8) + 1).astype(np.float32)
  if rule.score == GRADIENT_SCORE:
    return np.abs(w * gradient)
  if rule.score == "magnitude_rms":
    axes = parameter.matrix_axes
    live = np.maximum((w != 0).sum(axes, keepdims=True), 1)
    return np.abs(w) / np.sqrt((w.astype(np.float64) ** 2).sum(axes, keepdims=True) / live)
  return np.abs(w)


def weight_entries(rule: PruningRule, parameter: Parameter, weight: np.ndarray, score, offset: int) -> list[Entry]:
  del rule
  ties = hashes(offset, parameter.shape)
  place = lambda index: (parameter.path, *(index[axis] for axis in parameter.stack_axes))
  live = (index for index in np.ndindex(*parameter.shape) if weight[index] != 0)
  return [Entry(parameter.path, place(index), (index,), score[index], ties[index]) for index in live]


def block_entries(rule: PruningRule, parameter: Parameter, weight: np.ndarray, score, offset: int) -> list[Entry]:
  """Blocks that have a live weight, each with its norm."""
  units = {parameter.contraction_axes[-1]: rule.structure.rows, parameter.output_axes[-1]: rule.structure.columns}
  grid = [size // units.get(axis, 1) for axis, size in enumerate(parameter.shape)]
  ties, entries = hashes(offset, grid), []
  for block in np.ndindex(*grid):
    ranges = [range(b * units.get(axis, 1), (b + 1) * units.get(axis, 1)) for axis, b in enumerate(block)]
    indices = tuple(itertools.product(*ranges))
    live = [index for index in indices if weight[index] != 0]
    if live:
      norm = np.sqrt(sum(float(score[index]) ** 2 for index in live))
      matrix = (parameter.path, *(indices[0][axis] for axis in parameter.stack_axes))
      entries.append(Entry(parameter.path, matrix, indices, norm, ties[block]))
  return entries
