"""A tokenizer.json from the sentencepiece model of a run, so that the folder tokenizes exactly as the training did."""

from collections.abc import Iterator, Mapping
import os
import shutil
from typing import Any

from maxtext_sparse.errors import ConfigError

FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
_BPE = 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def write_tokenizer(folder: str, flat: Mapping[str, Any]) -> dict[str, int]:
  """Writes the run's tokenizer into a model folder.

  Args:
    folder: where to.
    flat: the run's MaxText config.

  Returns:
    `bos_token_id`, `eos_token_id` and `pad_token_id`, those that the tokenizer has.

  Raises:
    ConfigError: the run's tokenizer is not there, or does not fit the model.
  """
  path, kind = (
    _located(str(flat.get("tokenizer_path") or "")),
    str(getattr(flat["tokenizer_type"], "value", flat["tokenizer_type"])),
  )
  if kind == "huggingface" and os.path.isdir(path):
    return _copy(path, folder)
  if kind != "sentencepiece" or not os.path.isfile(path):
    raise ConfigError(f"tokenizer_path={path or 'none'}: no sentencepiece model or tokenizer folder on this machine")
  model = _read_model(path)
  if len(model.pieces) > flat["vocab_size"]:
    raise ConfigError(f"tokenizer_path={path}: has {len(model.pieces)} tokens, the model vocab_size={flat['vocab_size']}")
  _write(folder, model, bool(flat.get("add_bos", True)), int(flat["max_target_length"]))
  ids = {"bos": model.trainer_spec.bos_id, "eos": model.trainer_spec.eos_id, "pad": model.trainer_spec.pad_id}
  return {f"{name}_token_id": value for name, value in ids.items() if value >= 0}


def build_tokenizer(model: Any, has_bos: bool) -> Any:
  """The `tokenizers.Tokenizer` of a sentencepiece model (the parsed protobuf).

  Args:
    model: sentencepiece's ModelProto.
    has_bos: whether each text begins with the token for it, as MaxText's `add_bos`.
  """
  from tokenizers import AddedToken, decoders, models, processors, Tokenizer

  trainer, pieces = model.trainer_spec, model.pieces
  unknown = pieces[trainer.unk_id].piece
  if trainer.model_type != _BPE:
    # Tried: `tokenizers` cuts ties between unigram pieces of equal score in another way than sentencepiece.
    raise ConfigError("tokenizer_path: only sentencepiece BPE models become a tokenizer.json that cuts text the same way")
  vocabulary = {piece.piece: index for index, piece in enumerate(pieces)}
  merges = list(_merges(pieces, vocabulary))
  tokenizer = Tokenizer(
    models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=trainer.byte_fallback)
  )
  tokenizer.normalizer = _normalizer(model.normalizer_spec)
  strip = [decoders.Strip(" ", 1, 0)] if model.normalizer_spec.add_dummy_prefix else []
  tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
  special = [piece.piece for piece in pieces if piece.type in (_UNKNOWN, _CONTROL)]
  tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
  defined = [piece.piece for piece in pieces if piece.type == _USER_DEFINED]
  # Sentencepiece looks for these after it has replaced the spaces.
  tokenizer.add_tokens([AddedToken(piece, normalized=True) for piece in defined])
  if has_bos and trainer.bos_id >= 0:
    bos = pieces[trainer.bos_id].piece
    tokenizer.post_processor = processors.TemplateProcessing(
      single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, trainer.bos_id)]
    )
  return tokenizer


def _merges(pieces: Any, vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
  """Sentencepiece joins the pair whose joint piece scores best: every pair, by the score of what it makes."""
  ranked = sorted((piece for piece in pieces if piece.type == _NORMAL), key=lambda piece: -piece.score)
  for piece in ranked:
    text = piece.piece
    pairs = [(text[:i], text[i:]) for i in range(1, len(text))]
    known = [(left, right) for left, right in pairs if left in vocabulary and right in vocabulary]
    yield from sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))


def _normalizer(spec: Any) -> Any:
  from tokenizers import normalizers, Regex

  steps: list[Any] = []
  if spec.precompiled_charsmap:
    steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
  if spec.remove_extra_whitespaces:
    steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
  if spec.add_dummy_prefix:
    steps.append(normalizers.Prepend(_SPACE))
  return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _write(folder: str, model: Any, has_bos: bool, max_length: int) -> None:
  import json

  build_tokenizer(model, has_bos).save(os.path.join(folder, FILE))
  trainer = model.trainer_spec
  ids = {"bos": trainer.bos_id, "eos": trainer.eos_id, "pad": trainer.pad_id, "unk": trainer.unk_id}
  config = {
    "add_bos_token": has_bos,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": max_length,
    "tokenizer_class": "PreTrainedTokenizerFast",
    **{f"{name}_token": model.pieces[index].piece for name, index in ids.items() if index >= 0},
  }
  with open(os.path.join(folder, CONFIG_FILE), "w", encoding="utf-8") as file:
    json.dump(config, file, indent=1, ensure_ascii=False)


def _read_model(path: str) -> Any:
  try:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2
    import tokenizers  # noqa: F401  only to fail here, in one line
  except ImportError as error:
    raise ConfigError(
      f"{error.name}: not installed here, tokenizers need it: pip install 'maxtext-sparse[export]'"
    ) from None
  # protobuf builds the class when the module is imported.
  model: Any = vars(sentencepiece_model_pb2)["ModelProto"]()
  with open(path, "rb") as file:
    try:
      model.ParseFromString(file.read())
    except DecodeError as error:
      raise ConfigError(f"tokenizer_path={path}: not a sentencepiece model") from error
  return model


def _located(path: str) -> str:
  """MaxText's own tokenizers are named relative to its checkout; an install from PyPI has them in `assets`."""
  if not path or os.path.exists(path):
    return path
  import importlib.util

  spec = importlib.util.find_spec("maxtext")
  folders = list(spec.submodule_search_locations or []) if spec else []
  for folder in folders:
    inside = os.path.join(folder, "assets", "tokenizers", os.path.basename(path))
    if os.path.exists(inside):
      return inside
  return path


def _copy(path: str, folder: str) -> dict[str, int]:
  """Copies a Hugging Face tokenizer; its ids stand in the folder's own config."""
  for name in (FILE, CONFIG_FILE, "special_tokens_map.json", "tokenizer.model"):
    if os.path.isfile(os.path.join(path, name)):
      shutil.copyfile(os.path.join(path, name), os.path.join(folder, name))
  return {}
