"""The model card: README.md of a folder, with Hugging Face's metadata, written from the certificate alone."""

from collections.abc import Mapping
from typing import Any

from maxtext_sparse.terminal import short

FILE = "README.md"
FIGURE = "density.png"

_LOAD_DENSE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```"""
_LOAD_BITMASK = """The weights are one bit per weight and the non-zero values. `load_dense` gives dense arrays:

```python
from maxtext_sparse.weights.bitmask import to_torch
from maxtext_sparse.weights.folder import load_dense

state = {name: to_torch(array) for name, array in load_dense("PATH")}
```

A matrix NAME with `rows` output features and `cols` inputs is stored as

| tensor | dtype and shape | content |
|---|---|---|
| `NAME.shape` | int64 [2] | (rows, cols) |
| `NAME.row_offsets` | int64 [rows + 1] | number of values before each row |
| `NAME.compressed` | {dtype} [row_offsets[rows]] | the non-zero values, row by row |
| `NAME.bitmask` | uint8 [rows, ceil(cols / 8)] | bit j of byte i of a row: column 8 i + j is not zero |
"""
_PACKED = """
In this folder `NAME.planes` and `NAME.plane_sizes` stand for the last two: zstd frames one after the other, frame k has
byte k (little endian) of every value and the last frame the bitmask; `plane_sizes` is the number of bytes of each frame.
"""


def model_card(certificate: Mapping[str, Any], has_figure: bool) -> str:
  """The text of the card.

  Args:
    certificate: content of sparsity.json.
    has_figure: whether the folder has the figure of densities.
  """
  sections = [
    _METADATA if certificate["nonzero"] < certificate["prunable"] else _METADATA.replace(_SPARSE_TAGS, ""),
    _title(certificate),
    _facts_table(certificate),
    f"![Share of each matrix that is left]({FIGURE})" if has_figure else "",
    "## Density",
    _density_table(certificate),
    "## Use",
    _LOAD_DENSE if certificate["format"] == "dense" else _bitmask_text(certificate),
    "`maxtext-sparse verify PATH` recounts the folder and compares it with `sparsity.json`, which holds the counts and a "
    "digest of the mask of each matrix.",
  ]
  return "\n\n".join(section.strip() for section in sections if section) + "\n"


_SPARSE_TAGS = ", sparse, pruning"
_METADATA = f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [maxtext, maxtext-sparse{_SPARSE_TAGS}]
---"""


def _title(certificate: Mapping[str, Any]) -> str:
  """What the model is, in a heading and a sentence."""
  nonzero, prunable = certificate["nonzero"], certificate["prunable"]
  if nonzero == prunable:
    return (
      "# A dense language model\n\nPre-trained in MaxText and exported with `maxtext-sparse`. "
      f"None of the {short(prunable)} weights of its linear layers is zero."
    )
  return (
    f"# A language model with {1 - certificate['density']:.1%} of its prunable weights removed\n\n"
    f"Sparse while it was trained: {short(nonzero)} of {short(prunable)} weights of the linear layers are left, the "
    "others are exact zeros. Pre-trained in MaxText with `maxtext-sparse`, by gradual magnitude pruning "
    "([Jin et al., 2025](https://arxiv.org/abs/2501.12486))."
  )


def _bitmask_text(certificate: Mapping[str, Any]) -> str:
  return _LOAD_BITMASK.replace("{dtype}", certificate["dtype"]) + (_PACKED if certificate["is_compressed"] else "")


def _facts_table(certificate: Mapping[str, Any]) -> str:
  training = certificate["training"]
  rows = [
    ("parameters", f"{certificate['total']:,}"),
    ("prunable weights", f"{certificate['prunable']:,}"),
    ("of these not zero", f"{certificate['nonzero']:,} ({certificate['density']:.2%})"),
    ("structure of the zeros", ", ".join(certificate["structures"]) or "none"),
    ("dtype", certificate["dtype"]),
  ]
  optional: list[tuple[str, str, str]] = [
    ("average_params", "average prunable weights while training", ",.0f"),
    ("effective_flops", "effective training FLOPs (6 x average x tokens)", ".4g"),
    ("tokens", "training tokens", ",d"),
    ("eval_loss", "final eval loss (nats per token)", ".4f"),
    ("step", "checkpoint of step", "d"),
    ("schedule", "pruning schedule", ""),
  ]
  rows += [(label, format(training[key], style)) for key, label, style in optional if training.get(key) is not None]
  packages = {"maxtext": "MaxText", "maxtext_sparse": "maxtext-sparse"}
  versions = training.get("versions") or {}
  rows += [(label, versions[name]) for name, label in packages.items() if name in versions]
  return "\n".join(["| | |", "|---|---|", *(f"| {label} | {value} |" for label, value in rows)])


def _density_table(certificate: Mapping[str, Any]) -> str:
  """A row per kind of matrix: the least and the most dense layer."""
  from maxtext_sparse.weights.folder import kind_of

  kinds: dict[str, list[Mapping[str, Any]]] = {}
  for matrix in certificate["matrices"]:
    kinds.setdefault(kind_of(matrix["name"]), []).append(matrix)
  lines = ["| matrix | weights | density | least dense layer | densest layer |", "|---|---|---|---|---|"]
  for kind, matrices in kinds.items():
    weights = sum(matrix["shape"][0] * matrix["shape"][1] for matrix in matrices)
    densities = [matrix["density"] for matrix in matrices]
    mean = sum(matrix["nonzero"] for matrix in matrices) / weights
    lines.append(f"| {kind} | {weights:,} | {mean:.2%} | {min(densities):.2%} | {max(densities):.2%} |")
  return "\n".join(lines)
