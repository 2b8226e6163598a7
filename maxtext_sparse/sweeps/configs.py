"""MaxText config files as flat mappings, and back: what a run's own file holds."""

from collections.abc import Mapping, Sequence
import difflib
import glob
import os
from typing import Any

import yaml

from maxtext_sparse.errors import ConfigError

# MaxText's defaults, the end of every chain that does not name another of its files.
_STOCK = "base.yml"


def read_configs(paths: Sequence[str], folder: str) -> dict[str, Any]:
  """All keys of several config files, later ones winning, with the `base_config` that they share.

  Args:
    paths: relative to `folder`.
    folder: the sweep file's.

  Raises:
    ConfigError: a file is missing or no mapping, or two chains end in different files of MaxText.
  """
  merged: dict[str, Any] = {}
  for path in paths:
    content = _read_chain(os.path.join(folder, path))
    stock = content["base_config"]
    if merged.get("base_config", stock) != stock:
      raise ConfigError(f"{path}: base_config={stock}: the files before it have {merged['base_config']}, keep one")
    merged |= content
  return merged


def config_text(config: Mapping[str, Any]) -> str:
  """YAML of a run's config: the same bytes for the same keys, whatever their order."""
  head = {"base_config": config.get("base_config", _STOCK)}
  rest = {key: config[key] for key in sorted(config) if key != "base_config"}
  return yaml.safe_dump(head | rest, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


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


def _read_chain(path: str) -> dict[str, Any]:
  """A file over its `base_config` over that one's, down to MaxText's own."""
  content = _read(path)
  base = content.get("base_config") or _STOCK
  beside = os.path.join(os.path.dirname(path), base)
  if os.path.isfile(beside) and not os.path.samefile(beside, path):
    return _read_chain(beside) | {key: value for key, value in content.items() if key != "base_config"}
  return content | {"base_config": base}


def _read(path: str) -> dict[str, Any]:
  try:
    with open(path, encoding="utf-8") as file:
      content = yaml.safe_load(file)
  except OSError as error:
    raise ConfigError(f"{path}: cannot read this config file ({error.strerror}){near_file(path)}") from error
  except yaml.YAMLError as error:
    raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
  if not isinstance(content, dict):
    raise ConfigError(f"{path}: not a MaxText config, must be a YAML mapping")
  return content


def near_file(path: str) -> str:
  """A hint at the config file that a wrong path may mean, empty where none is near."""
  folder, name = os.path.split(path)
  present = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  near = difflib.get_close_matches(name, [file for file in present if file.endswith(".yml")], n=1)
  return f", did you mean {os.path.join(folder, near[0])}?" if near else ""
