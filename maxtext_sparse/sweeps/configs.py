"""What a run's own config file holds."""

from collections.abc import Mapping
import glob
from typing import Any

from maxtext_sparse.config_files import dump, STOCK


def config_text(config: Mapping[str, Any]) -> str:
  """YAML of a run's config: the same bytes for the same keys, whatever their order."""
  head = {"base_config": config.get("base_config", STOCK)}
  rest = {key: config[key] for key in sorted(config) if key != "base_config"}
  return dump(head | rest, default_flow_style=None, width=120)


def corpus_keys() -> dict[str, Any]:
  """Keys that read the sweep's own text, relative to its folder, in which `sweep run` trains."""
  return {
    "dataset_type": "grain",
    "grain_file_type": "parquet",
    # MaxText takes these two for patterns.
    "grain_train_files": glob.escape("corpus/train.parquet"),
    "grain_eval_files": glob.escape("corpus/eval.parquet"),
    "tokenizer_type": "sentencepiece",
    "tokenizer_path": "corpus/vocabulary.model",
    "train_data_columns": ["text"],
    "eval_data_columns": ["text"],
  }
