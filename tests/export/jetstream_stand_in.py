"""What MaxText's decode asks of JetStream: a tokenizer and a container of results. All that touches weights is MaxText's.

MaxText takes JetStream from a commit on GitHub. The package of that name on PyPI, 0.2.2, is older: it has no
`TokenizerType`, with which MaxText replaces it by stubs that decode refuses.
"""

import enum
import importlib.machinery
import sys
import types
from typing import Any

from flax import struct
import numpy as np
import sentencepiece

# Token ids of each text that was generated, in the order of the runs.
generated: list[list[int]] = []


class TokenizerType(enum.IntEnum):
  """The kinds of tokenizer, with the lookup that a protocol buffer has."""

  tiktoken = 0
  sentencepiece = 1
  huggingface = 2


TokenizerType.DESCRIPTOR = types.SimpleNamespace(  # type: ignore[attr-defined]
  values_by_name={kind.name: types.SimpleNamespace(number=kind.value) for kind in TokenizerType}
)


@struct.dataclass
class ResultTokens:
  """Tokens of a batch in columns `tokens_idx` of `data`, one row for each slot."""

  data: Any
  tokens_idx: Any = struct.field(pytree_node=False, default=None)
  valid_idx: Any = struct.field(pytree_node=False, default=None)
  length_idx: Any = struct.field(pytree_node=False, default=None)
  samples_per_slot: Any = struct.field(pytree_node=False, default=None)
  log_prob: Any = None

  def get_result_at_slot(self, slot: int) -> Any:
    return types.SimpleNamespace(tokens=self.data[slot : slot + 1, slice(*self.tokens_idx)])


class SentencePieceTokenizer:
  """A vocabulary file; remembers what it decodes."""

  def __init__(self, metadata: Any):
    self._processor = sentencepiece.SentencePieceProcessor(model_file=metadata.path)

  def encode(self, text: str, is_bos: bool, prefill_lengths: list[int]) -> tuple[Any, int]:
    """Tokens, padded at their end, and their number without the padding."""
    tokens = [self._processor.bos_id()] * is_bos + self._processor.encode(text)
    (length,) = prefill_lengths
    return np.pad(np.array(tokens, np.int32), (0, length - len(tokens))), len(tokens)

  def decode(self, tokens: list[int]) -> str:
    generated.append([int(token) for token in tokens])
    return str(self._processor.decode(generated[-1]))


def install() -> None:
  """Takes the place of the modules of JetStream that MaxText imports; call it before MaxText is imported."""
  content = {
    "core.config_lib": {},
    "engine.engine_api": {"Engine": type("Engine", (), {}), "ResultTokens": ResultTokens},
    "engine.token_utils": {"SentencePieceTokenizer": SentencePieceTokenizer},
    "engine.tokenizer_api": {},
    "engine.tokenizer_pb2": {"TokenizerParameters": types.SimpleNamespace, "TokenizerType": TokenizerType},
  }
  for path, attributes in {"": {}, "core": {}, "engine": {}, **content}.items():
    name = f"jetstream.{path}".rstrip(".")
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(attributes)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
      setattr(sys.modules[parent], last, module)
