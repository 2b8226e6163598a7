"""A model folder as lm-evaluation-harness sees a language model, computed in numpy: no torch, no transformers.

Meant for small models on machines where torch is not to be had; the harness's own `hf` model is faster and knows every
architecture.
"""

from collections.abc import Iterator, Sequence
import os
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
import numpy as np
from numpy.typing import NDArray

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.evaluation.numpy_llama import NumpyLlama
from maxtext_sparse.weights.folder import ModelFolder

_DEFAULT_NEW_TOKENS = 64


class NumpyLM(TemplateLM):  # type: ignore[misc]  # the harness is an optional package
  """Scores and continues text with a `NumpyLlama`."""

  def __init__(self, path: str, batch_size: int = 16):
    """Loads a folder.

    Raises:
      ConfigError: another family than llama, or no tokenizer.json.
    """
    super().__init__()
    self._model = NumpyLlama(ModelFolder(path))
    self._tokenizer = _read_tokenizer(path)
    self._max_length = int(self._model.config.get("max_position_embeddings", 2048))
    self._batch_size = batch_size

  @property
  def eot_token_id(self) -> int:
    return int(self._model.config.get("eos_token_id", 0))

  @property
  def prefix_token_id(self) -> int:
    return int(self._model.config.get("bos_token_id", self.eot_token_id))

  def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
    del kwargs
    return list(self._tokenizer.encode(string, add_special_tokens=add_special_tokens is not False).ids)

  def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
    """Log-likelihood of whole texts, each token predicted from at most a context's length before it."""
    del disable_tqdm
    totals = []
    for (text,) in (request.args for request in requests):
      tokens = self.tok_encode(text, add_special_tokens=False)
      windows = get_rolling_token_windows(tokens, self.prefix_token_id, self._max_length, context_len=1)
      pairs = [make_disjoint_window(window) for window in windows]
      totals.append(sum(score for score, _ in self._score(pairs)))
    return totals

  def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
    """Continues each text greedily, without a cache of keys and values."""
    del disable_tqdm
    return [self._continue(*request.args) for request in requests]

  def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
    del kwargs
    windows = [self._windows(context, continuation) for _, context, continuation in requests]
    scores = iter(self._score([pair for pairs in windows for pair in pairs]))
    parts = ([next(scores) for _ in pairs] for pairs in windows)
    return [(sum(score for score, _ in part), all(is_greedy for _, is_greedy in part)) for part in parts]

  def _windows(self, context: list[int], continuation: list[int]) -> list[tuple[list[int], list[int]]]:
    """The pair itself, or several where the continuation alone is longer than the model's context."""
    if len(continuation) <= self._max_length:
      return [(context, continuation)]
    windows = get_rolling_token_windows(continuation, context[-1], self._max_length, context_len=1)
    return [make_disjoint_window(window) for window in windows]

  def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    """Log-likelihood of each continuation, and whether it is what greedy decoding gives."""
    # Inputs of similar length share a batch; the longest first shows early whether memory suffices.
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    scores: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
    for batch in _batches(order, self._batch_size):
      inputs = [(pairs[i][0] + pairs[i][1])[-self._max_length - 1 :][:-1] for i in batch]
      logits = self._logits(inputs)
      for row, i in enumerate(batch):
        continuation = pairs[i][1]
        if not continuation:
          continue
        end = len(inputs[row])
        scores[i] = _score_of(logits[row, end - len(continuation) : end], np.array(continuation))
    return scores

  def _logits(self, inputs: Sequence[list[int]]) -> Any:
    """Logits [B, T, V]. Rows are padded behind their end, which causal attention does not see."""
    padded = np.zeros((len(inputs), max(map(len, inputs))), np.int64)
    for row, tokens in enumerate(inputs):
      padded[row, : len(tokens)] = tokens
    return self._model.logits(padded)

  def _continue(self, text: str, options: dict[str, Any]) -> str:
    stops = options.get("until") or []
    stops = [stops] if isinstance(stops, str) else stops
    tokens = self.tok_encode(text)
    start = len(tokens)
    for _ in range(options.get("max_gen_toks", _DEFAULT_NEW_TOKENS)):
      token = int(self._logits([tokens[-self._max_length :]])[0, -1].argmax())
      tokens.append(token)
      written = str(self._tokenizer.decode(tokens[start:]))
      if token == self.eot_token_id or any(stop in written for stop in stops):
        break
    written = str(self._tokenizer.decode(tokens[start:]))
    return min((written.partition(stop)[0] for stop in stops), key=len, default=written)


def _score_of(logits: NDArray[Any], targets: NDArray[Any]) -> tuple[float, bool]:
  """Sum of log-probabilities of targets [T] under logits [T, V], and whether each is the most likely."""
  shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
  log_probabilities = shifted[np.arange(len(targets)), targets] - np.log(np.exp(shifted).sum(axis=-1))
  return float(log_probabilities.sum()), bool((logits.argmax(axis=-1) == targets).all())


def _batches(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
  for start in range(0, len(order), size):
    yield order[start : start + size]


def _read_tokenizer(path: str) -> Any:
  from tokenizers import Tokenizer

  file = os.path.join(path, "tokenizer.json")
  if not os.path.isfile(file):
    raise ConfigError(f"{path}: has no tokenizer.json, export it with tokenizer_path=VOCABULARY")
  return Tokenizer.from_file(file)
