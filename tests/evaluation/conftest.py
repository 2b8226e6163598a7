"""A random model with a tokenizer for real text, exported."""

import argparse
import dataclasses
import json
import pathlib

import pytest

from maxtext_sparse.export.write import export_checkpoint
from maxtext_sparse.local.corpus import train_vocabulary
from tests.export.models import config_of, random_parameters, save_run, SHAPE

TEXT = pathlib.Path(argparse.__file__).read_text(encoding="utf-8")[:20_000]


@pytest.fixture(scope="session")
def readable(tmp_path_factory):
  """Folder of a model that knows 400 tokens."""
  folder = tmp_path_factory.mktemp("readable")
  (folder / "v.model").write_bytes(train_vocabulary([TEXT], 400))
  shape = dataclasses.replace(SHAPE, vocab_size=400)
  config = config_of(shape, tokenizer_path=str(folder / "v.model"), add_bos=True)
  checkpoint = save_run(folder / "run", random_parameters(shape), config)
  result = export_checkpoint(str(checkpoint), str(folder / "hf"), [])
  assert not result.notes, result.notes
  with open(folder / "text.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps({"text": TEXT[i : i + 900]}) + "\n" for i in range(0, len(TEXT), 900))
  return folder / "hf"
