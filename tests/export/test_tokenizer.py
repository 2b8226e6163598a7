"""tokenizer.json cuts text exactly as the sentencepiece model that it was made from."""

import io
import pathlib
import sysconfig

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.export.tokenizer import build_tokenizer, write_tokenizer
from maxtext_sparse.local.corpus import train_vocabulary

STDLIB = pathlib.Path(sysconfig.get_path("stdlib"))
FILES = sorted(STDLIB.glob("*.py"))[:30]
ODD = [
  "",
  " leading",
  "trailing ",
  "two  spaces and\ttab\n\nlines",
  "héllo wörld",
  "日本語のテキスト 😀",
  "a\u00a0b",
  "12345 3.14",
  "def f(x):\n    return x  # four spaces\n",
]


def models():
  yield "corpus", train_vocabulary([path.read_text(encoding="utf-8") for path in FILES[:10]], 600)
  # As LLaMA 2: a space in front, no newline symbol. And sentencepiece's own defaults, which normalise text.
  llama = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
  for name, options in (("llama2", llama), ("defaults", {})):
    model = io.BytesIO()
    lines = (line for path in FILES[:5] for line in path.read_text(encoding="utf-8").splitlines())
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=lines, model_writer=model, vocab_size=900, model_type="bpe", minloglevel=2, **options
    )
    yield name, model.getvalue()


@pytest.fixture(scope="module", params=["corpus", "llama2", "defaults"])
def pair(request):
  content = dict(models())[request.param]
  model = sentencepiece_model_pb2.ModelProto.FromString(content)
  return build_tokenizer(model, has_bos=False), sentencepiece.SentencePieceProcessor(model_proto=content)


def texts():
  return [*ODD, *(path.read_text(encoding="utf-8")[:4000] for path in FILES)]


def test_the_same_tokens(pair):
  ours, theirs = pair
  for text in texts():
    assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text), text[:60]


def test_decoding_gives_the_text_back():
  content = dict(models())["corpus"]
  ours = build_tokenizer(sentencepiece_model_pb2.ModelProto.FromString(content), has_bos=False)
  for text in texts():
    assert ours.decode(ours.encode(text).ids) == text


def test_the_token_for_the_beginning_comes_first_where_the_run_had_it(tmp_path):
  (tmp_path / "v.model").write_bytes(dict(models())["corpus"])
  config = {"tokenizer_type": "sentencepiece", "tokenizer_path": str(tmp_path / "v.model"), "vocab_size": 600}
  ids = write_tokenizer(str(tmp_path), {**config, "max_target_length": 64, "add_bos": True})
  from tokenizers import Tokenizer

  assert ids == {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
  assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("def").ids[0] == 2


@pytest.mark.parametrize(
  ("keys", "expected"),
  [
    ({"tokenizer_path": "/nowhere"}, "tokenizer_path=/nowhere: no sentencepiece model"),
    ({"vocab_size": 599}, "has 600 tokens, the model vocab_size=599"),
    ({"tokenizer_path": __file__}, "not a sentencepiece model"),
  ],
)
def test_a_tokenizer_that_cannot_be_written_is_one_line(tmp_path, keys, expected):
  (tmp_path / "v.model").write_bytes(dict(models())["corpus"])
  config = {"tokenizer_type": "sentencepiece", "tokenizer_path": str(tmp_path / "v.model"), "vocab_size": 600}
  with pytest.raises(ConfigError, match=expected):
    write_tokenizer(str(tmp_path), {**config, "max_target_length": 64, **keys})
