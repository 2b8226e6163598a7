"""Turns the public runs of Frantar et al. (2023, arXiv 2309.08520) into RUNS.csv form.

Their runs prune with a cubic schedule from 25 % to 75 % of the steps. A quarter of the steps is dense, half has a mean
density of 1 - 0.75 S, and a quarter has 1 - S, so N_avg = N_dense (1 - 0.625 S). Counts are non-embedding parameters.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json

import numpy as np
import pandas as pd

from maxtext_sparse.errors import ConfigError, did_you_mean
from maxtext_sparse.laws.runs_table import check_runs
from maxtext_sparse.laws.tracking import read_chinchilla, read_event_files, read_export
from maxtext_sparse.schedule import mean_density_while_pruning

_T5_TOKENS_PER_STEP = 65_536


@dataclasses.dataclass(frozen=True)
class PublishedData:
  """One published data set.

  Attributes:
    read: path -> table as published.
    base_params: non-embedding parameters of the dense model at scale 1.
    columns: the published columns that the conversion needs.
    tokens: table -> training data that a run has seen (T5: tokens, ViT: images).
  """

  read: Callable[[str], pd.DataFrame]
  base_params: float
  columns: tuple[str, ...]
  tokens: Callable[[pd.DataFrame], pd.Series]


def _read_json(path: str) -> pd.DataFrame:
  with open(path, encoding="utf-8") as file:
    return pd.DataFrame(json.load(file))


SOURCES = {
  "t5": PublishedData(
    pd.read_csv, 169.87e6, ("sparsity", "scale", "val-loss", "steps"), lambda runs: runs["steps"] * _T5_TOKENS_PER_STEP
  ),
  "vit": PublishedData(
    _read_json, 84.93e6, ("sparsity", "scale", "val-loss", "total_examples"), lambda runs: runs["total_examples"]
  ),
}

TRACKERS: dict[str, Callable[[str, Mapping[str, float]], pd.DataFrame]] = {
  "wandb": read_export,
  "tensorboard": read_event_files,
  "chinchilla": read_chinchilla,
}


def convert(path: str, source: str, dense_params: Mapping[str, float] | None = None) -> pd.DataFrame:
  """The runs of a published file, or of a tracker, in RUNS.csv form.

  Args:
    path: the file as published or exported, or the folder of event files.
    source: one of `SOURCES` or `TRACKERS`.
    dense_params: run, or `*` for all others -> prunable weights, where a tracker does not have them.

  Raises:
    ConfigError: the source is unknown, the file cannot be read, or a row is bad.
  """
  if source in TRACKERS:
    return check_runs(TRACKERS[source](path, dense_params or {}), path)
  if source not in SOURCES:
    known = [*SOURCES, *TRACKERS]
    raise ConfigError(f"--source={source}: must be {', '.join(known)}{did_you_mean(source, known)}")
  form = SOURCES[source]
  try:
    published = form.read(path).reset_index(drop=True)
  except (OSError, ValueError) as error:
    raise ConfigError(f"{path}: not the published {source} file ({error})") from error
  missing = [column for column in form.columns if column not in published.columns]
  if missing:
    raise ConfigError(f"{path}: not the published {source} file, column {', '.join(missing)} is missing")
  return check_runs(_runs(published, source, form), path)


def _runs(published: pd.DataFrame, source: str, form: PublishedData) -> pd.DataFrame:
  sparsity = published["sparsity"].astype(float)
  dense = form.base_params * published["scale"].astype(float)
  names = [
    f"{source}_{index:03d}_s{100 * s:g}_x{scale:g}"
    for index, (s, scale) in enumerate(zip(sparsity, published["scale"], strict=True))
  ]
  return pd.DataFrame(
    {
      "run": names,
      "sparsity": sparsity,
      "dense_params": dense,
      "average_params": dense * np.vectorize(_average_density)(sparsity),
      "final_params": dense * (1.0 - sparsity),
      "tokens": form.tokens(published).astype(float),
      "loss": published["val-loss"].astype(float),
    }
  )


def _average_density(sparsity: float) -> float:
  """Mean over the steps, 1 - 0.625 S: a quarter dense, half in cubic decay, a quarter at the target."""
  return 0.25 + 0.5 * mean_density_while_pruning("cubic", sparsity) + 0.25 * (1.0 - sparsity)
