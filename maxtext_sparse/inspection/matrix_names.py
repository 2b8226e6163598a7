"""What the name of a matrix says: its kind, its layer, and the expert that it belongs to.

A folder has Hugging Face's names, `model.layers.3.mlp.experts.5.up_proj.weight`. A checkpoint has those of a run's event
files: `decoder/layers/mlp/wo/kernel[3]` is layer 3 of a scanned array, `decoder/layers/MoeBlock_0/wo[3,5]` its expert 5.
"""

import re

# Layers in a Hugging Face name, a scanned MaxText array's name, and an unscanned one's.
_LAYERS = (re.compile(r"(?:^|\.)layers\.(\d+)\."), re.compile(r"\[(\d+)(?:,\d+)*\]"), re.compile(r"layers_(\d+)(?=/)"))
_NOISE = re.compile(r"^(model\.|decoder/)|\.weight$|/kernel(?=$|#)|(?<=/)layers/|^layers/|\.?layers\.")
_EXPERTS = (re.compile(r"(.+\.experts\.\d+)\."), re.compile(r"(.+)/w[io](?:_\d)?(\[[\d,]+\])$"))


def split_name(name: str) -> tuple[str, str]:
  """The kind of a matrix and its layer, "-" outside the layers.

  Examples: `model.layers.3.mlp.up_proj.weight` -> (mlp.up_proj, 3), `decoder/layers/mlp/wo/kernel[3]` -> (mlp/wo, 3).
  """
  matches = [pattern.search(name) for pattern in _LAYERS]
  layer = next((match[1] for match in matches if match), "-")
  kind = re.sub(r"\[[\d,]+\]|#\d+|(?<=layers)_\d+|(?<=experts\.)\d+\.|\.\d+(?=\.)", "", name)
  return _NOISE.sub("", _NOISE.sub("", kind)), layer


def layer_order(layer: str) -> tuple[bool, int]:
  """Sorts layers by number, what is outside the layers first."""
  return layer != "-", int(layer) if layer != "-" else 0


def expert_of(name: str) -> str | None:
  """What the matrices of one expert have in common, None for a matrix of no expert.

  Examples: `model.layers.3.mlp.experts.5.up_proj.weight` -> model.layers.3.mlp.experts.5,
  `decoder/layers/MoeBlock_0/wo[3,5]` -> decoder/layers/MoeBlock_0[3,5].
  """
  match = next((match for match in (pattern.match(name) for pattern in _EXPERTS) if match), None)
  return "".join(match.groups()) if match else None
