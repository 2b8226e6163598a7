"""LLaMA-2 shapes: their parameter counts, the paper's suite, and the shape that is nearest to a wanted count."""

from collections.abc import Iterator, Mapping
import dataclasses
import math
from typing import Any

from maxtext_sparse.config_files import flatten, merge_configs, STOCK
from maxtext_sparse.errors import ConfigError

_VOCAB = 32_000
_MLP_RATIO = 4
# A shape is close to the wanted size if it is off by less than this share.
_CLOSE = 0.05


@dataclasses.dataclass(frozen=True)
class Shape:
  """A decoder with SwiGLU, RMSNorm and an untied head.

  Attributes:
    layers: number of blocks.
    emb: hidden size.
    mlp: width of the feed-forward layer.
    heads: query heads.
    head_dim: size of a head.
    kv_heads: key and value heads.
    vocab: vocabulary size.
  """

  layers: int
  emb: int
  mlp: int
  heads: int
  head_dim: int
  kv_heads: int
  vocab: int = _VOCAB

  @property
  def matrices(self) -> list[tuple[int, int]]:
    """(outputs, inputs) of each linear layer: query, key, value, output, three feed-forward matrices; the head last."""
    query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
    attention = [(query, self.emb), (key, self.emb), (key, self.emb), (self.emb, query)]
    feed_forward = [(self.mlp, self.emb), (self.mlp, self.emb), (self.emb, self.mlp)]
    return self.layers * (attention + feed_forward) + [(self.vocab, self.emb)]

  @property
  def prunable(self) -> int:
    """Weights of all linear layers."""
    return sum(outputs * inputs for outputs, inputs in self.matrices)

  @property
  def total(self) -> int:
    """All parameters: the prunable ones, the embedding, and the norms (two in each block and one at the end)."""
    return self.prunable + self.emb * self.vocab + (2 * self.layers + 1) * self.emb

  def maxtext_keys(self) -> dict[str, int]:
    """The shape as keys of a MaxText config."""
    return {
      "base_num_decoder_layers": self.layers,
      "base_emb_dim": self.emb,
      "base_mlp_dim": self.mlp,
      "base_num_query_heads": self.heads,
      "base_num_kv_heads": self.kv_heads,
      "head_dim": self.head_dim,
      "vocab_size": self.vocab,
    }


# The paper's models (Table 1, and the released 1B pairs).
SUITE = {
  "58m": Shape(6, 512, 2048, 8, 64, 8),
  "162m": Shape(12, 768, 3072, 12, 64, 12),
  "468m": Shape(24, 1024, 4096, 16, 64, 16),
  "1b": Shape(16, 2048, 8192, 8, 256, 8),
}


def nearest_shape(
  num_prunable: float, num_chips: int = 1, at_most: float = math.inf, vocab: int = _VOCAB
) -> Shape | None:
  """A runnable shape near the wanted prunable count that does not exceed `at_most`; None where there is none.

  The shape is made as the paper makes its dense twins: depth and heads come from a model of the suite, the hidden size
  changes, and the feed-forward layer is 4 times as wide. The hidden size is divisible by the number of heads, into heads
  of even size as rotary embeddings need, and by the number of chips. The suite's model nearest in size is the template
  if the shape made from it is close; otherwise the closest shape of any template is taken.
  """

  def distance(shape: Shape) -> float:
    return abs(math.log(shape.prunable / num_prunable))

  candidates: list[Shape] = []
  for template in sorted((dataclasses.replace(shape, vocab=vocab) for shape in SUITE.values()), key=distance):
    shapes = [shape for shape in _with_other_sizes(template, num_chips, num_prunable) if shape.prunable <= at_most]
    candidates += sorted(shapes, key=distance)[:1]
    if candidates and distance(candidates[-1]) <= _CLOSE:
      return candidates[-1]
  return min(candidates, key=distance, default=None)


def _with_other_sizes(template: Shape, num_chips: int, num_prunable: float) -> Iterator[Shape]:
  """The template with every allowed hidden size, up to the first one that has more than `num_prunable` weights."""
  step = math.lcm(2 * template.heads, num_chips)
  emb = 0
  while True:
    emb += step
    heads = template.heads
    shape = Shape(template.layers, emb, _MLP_RATIO * emb, heads, emb // heads, heads, template.vocab)
    yield shape
    if shape.prunable > num_prunable:
      return


def shape_of_config(path: str) -> tuple[Shape, Mapping[str, Any]]:
  """The shape that a MaxText config file describes, and the keys of the file and of the bases beside it.

  Raises:
    ConfigError: the file cannot be read, a shape key is missing, or the model has another architecture.
  """
  keys = flatten(merge_configs([path]))
  if keys["base_config"] != STOCK:
    raise ConfigError(f"{path}: base_config={keys['base_config']}: must be a file beside it or {STOCK}")
  names = {
    "layers": "base_num_decoder_layers",
    "emb": "base_emb_dim",
    "mlp": "base_mlp_dim",
    "heads": "base_num_query_heads",
    "head_dim": "head_dim",
    "kv_heads": "base_num_kv_heads",
  }
  for name in names.values():
    if not isinstance(keys.get(name), int) or keys[name] < 1:
      raise ConfigError(f"{path}: {name}={keys.get(name)}: must be a positive integer, or give --dense-params instead")
  for name, plain in (("num_experts", 1), ("logits_via_embedding", False)):
    if keys.get(name, plain) != plain:
      raise ConfigError(f"{path}: {name}={keys[name]}: not a LLaMA-2 shape, give --dense-params instead")
  return Shape(**{field: keys[name] for field, name in names.items()}, vocab=keys.get("vocab_size", _VOCAB)), keys
