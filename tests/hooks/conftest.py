"""Fixtures: one worker process per device count for the whole session."""

from pathlib import Path
from typing import Any

import pytest

from tests.hooks.harness import Worker


@pytest.fixture(scope="session")
def worker(tmp_path_factory):
  """MaxText on one CPU device."""
  process = Worker(1, tmp_path_factory.mktemp("worker") / "log")
  yield process
  process.close()


@pytest.fixture(scope="session")
def worker8(tmp_path_factory):
  """MaxText on eight fake CPU devices."""
  process = Worker(8, tmp_path_factory.mktemp("worker8") / "log")
  yield process
  process.close()


@pytest.fixture(scope="session")
def out(tmp_path_factory):
  """Output folder shared by the session's runs; each run has a name of its own."""
  return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def sparse_run(worker, out):
  """The run that many tests read: 80 % sparse in four events, evaluated every six steps."""
  from tests.hooks.harness import SPARSE

  return worker.train(out, "sparse", eval_interval=6, eval_steps=2, enable_tensorboard=True, **SPARSE)


@pytest.fixture(scope="session")
def text_data(tmp_path_factory):
  """Settings for real text through grain."""
  return text_settings(tmp_path_factory.mktemp("corpus") / "corpus", train_chars=400_000)


def text_settings(folder: Path, train_chars: int) -> dict[str, Any]:
  """Writes a small corpus from the interpreter's standard library; the MaxText keys that read it."""
  from maxtext_sparse.local.corpus import build_corpus, CorpusSettings

  settings = CorpusSettings(train_chars=train_chars, eval_chars=40_000, vocab_size=512)
  corpus = build_corpus(str(folder), settings=settings)
  return {
    "dataset_type": "grain",
    "grain_file_type": "parquet",
    "grain_train_files": corpus.train_file,
    "grain_eval_files": corpus.eval_file,
    "grain_worker_count": 0,
    "grain_worker_count_eval": 0,
    "tokenizer_type": "sentencepiece",
    "tokenizer_path": corpus.vocabulary_file,
    "train_data_columns": "[text]",
    "eval_data_columns": "[text]",
    "use_truncation": False,
  }
