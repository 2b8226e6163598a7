"""What `inspect` finds in a model: density, dead neurons and heads, structures, collapse, overlap with another model."""

from collections.abc import Sequence
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inspection.matrix_names import expert_of, layer_order, split_name
from maxtext_sparse.inspection.measure import (
  BINS_PER_OCTAVE,
  COMMON_STRUCTURES,
  common_structures,
  dead_heads,
  jaccard,
  MatrixFigures,
  measure,
  SMALLEST_EXPONENT,
  totals,
)
from maxtext_sparse.inspection.source import open_source, Source

# A matrix with fewer of its weights left is as good as gone.
COLLAPSED_DENSITY = 0.01
# Which axis of [outputs, inputs] the heads lie along, by the end of the module's name.
_HEAD_AXES = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1, "query": 0, "key": 0, "value": 0, "out": 1}


def survey(path: str, structures: Sequence[str] = ()) -> tuple[dict[str, Any], list[MatrixFigures]]:
  """Everything that one model tells.

  Args:
    path: model folder or checkpoint.
    structures: `n:m` and `block:RxC` to test the zeros for, besides the common ones.

  Returns:
    The JSON object of `inspect`, and the figures with their histograms.
  """
  source = open_source(path)
  tested = list(dict.fromkeys([*structures, *COMMON_STRUCTURES]))
  figures: list[MatrixFigures] = []
  rows: list[dict[str, Any]] = []
  for name, matrix in source.matrices():
    figures.append(measure(name, matrix, tested))
    rows.append({**figures[-1].to_dict(), "dead_heads": _dead_heads(name, matrix, source)})
  if not figures:
    raise ConfigError(f"{path}: holds no linear layer's weight")
  result = {
    "title": source.title,
    **totals(figures),
    **_densities(figures),
    "structures": common_structures(figures),
    "warnings": warnings(rows),
    "matrices": rows,
  }
  return result, figures


def compare(path: str, other: str) -> dict[str, Any]:
  """Overlap of the masks of two models: Jaccard per matrix and in total.

  Raises:
    ConfigError: they share no matrix, or a matrix has two shapes.
  """
  one, two = open_source(path), open_source(other)
  rows: list[dict[str, Any]] = []
  kept_by_both = kept_by_either = 0
  for name, matrix in one.matrices():
    counterpart = two.read(name)
    if counterpart is None:
      continue
    if counterpart.shape != matrix.shape:
      raise ConfigError(f"{name}: {list(matrix.shape)} in {path}, {list(counterpart.shape)} in {other}: not comparable")
    both = int(np.count_nonzero((matrix != 0) & (counterpart != 0)))
    either = int(np.count_nonzero((matrix != 0) | (counterpart != 0)))
    kept_by_both, kept_by_either = kept_by_both + both, kept_by_either + either
    rows.append({"name": name, "jaccard": jaccard(matrix, counterpart)})
  if not rows:
    raise ConfigError(
      f"--compare={other}: has no matrix of a name in {path}; compare folders, or checkpoints of one layout"
    )
  return {"title": two.title, "jaccard": kept_by_both / kept_by_either if kept_by_either else 1.0, "matrices": rows}


def warnings(rows: Sequence[dict[str, Any]]) -> list[str]:
  """A line for each matrix that is broken, gone or nearly gone."""
  lines = []
  for row in rows:
    if row["nonfinite"]:
      lines.append(f"{row['name']}: {row['nonfinite']} weights are NaN or infinite")
    if row["nonzero"] == 0:
      lines.append(f"{row['name']}: every weight is zero")
    elif row["density"] < COLLAPSED_DENSITY:
      lines.append(f"{row['name']}: has collapsed, {row['density']:.2%} of its weights are left")
    elif row["dead_heads"]:
      lines.append(f"{row['name']}: {row['dead_heads']} attention heads are all zero")
  # Of its three matrices any one makes the product zero.
  dead = dict.fromkeys(expert_of(row["name"]) for row in rows if row["nonzero"] == 0)
  return lines + [f"{expert}: this expert always gives zero" for expert in dead if expert is not None]


def draw(result: dict[str, Any], figures: Sequence[MatrixFigures], out: str) -> list[str]:
  """Writes `density.png` and `magnitudes.png` into a folder and returns their paths."""
  from maxtext_sparse.plots.inspect import draw_heat_map, draw_magnitudes

  try:
    os.makedirs(out, exist_ok=True)
    files = [os.path.join(out, name) for name in ("density.png", "magnitudes.png")]
    draw_heat_map(result["matrices"], files[0])
    histograms: dict[str, NDArray[Any]] = {}
    for matrix in figures:
      kind = split_name(matrix.name)[0]
      histograms[kind] = histograms.get(kind, np.zeros(len(matrix.magnitudes), np.int64)) + np.array(matrix.magnitudes)
    edges = [SMALLEST_EXPONENT + i / BINS_PER_OCTAVE for i in range(len(figures[0].magnitudes))]
    draw_magnitudes({kind: counts.tolist() for kind, counts in histograms.items()}, edges, files[1])
  except OSError as error:
    raise ConfigError(f"--out={out}: cannot write there ({error.strerror or error})") from error
  return files


def _densities(figures: Sequence[MatrixFigures]) -> dict[str, dict[str, float]]:
  """`layers` and `kinds`: the density of each layer and of each kind of matrix, "-" being outside the layers."""
  layers: dict[str, list[MatrixFigures]] = {}
  kinds: dict[str, list[MatrixFigures]] = {}
  for matrix in figures:
    kind, layer = split_name(matrix.name)
    layers.setdefault(layer, []).append(matrix)
    kinds.setdefault(kind, []).append(matrix)
  return {
    "layers": {layer: totals(layers[layer])["density"] for layer in sorted(layers, key=layer_order)},
    "kinds": {kind: totals(matrices)["density"] for kind, matrices in kinds.items()},
  }


def _dead_heads(name: str, matrix: NDArray[Any], source: Source) -> int:
  module = name.replace("/kernel", "").removesuffix(".weight").partition("[")[0].replace("/", ".").rpartition(".")[2]
  if source.head_dim is None or module not in _HEAD_AXES:
    return 0
  return dead_heads(matrix, source.head_dim, _HEAD_AXES[module])
