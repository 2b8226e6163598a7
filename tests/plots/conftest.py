"""Runs that look like a study's: tables of a known law and metrics files with the loss of a known curve."""

import itertools
import json
import os
import pathlib
import re

import numpy as np
import pandas as pd
import pytest

from maxtext_sparse.config import SparsityKeys
from maxtext_sparse.schedule import average_density_limit, build_schedule


def law(size, tokens):
  return 400.0 / size**0.34 + 410.0 / tokens**0.28 + 1.7


def row(name, dense, sparsity, tokens, extra_loss=0.0, **columns):
  average = dense * average_density_limit("geometric", sparsity, 0.25, 0.5)
  counts = {"dense_params": dense, "average_params": average, "final_params": dense * (1 - sparsity), "tokens": tokens}
  return {"run": name, "sparsity": sparsity, **counts, "loss": law(average, tokens) + extra_loss, **columns}


def write_table(path, rows):
  pd.DataFrame(rows).to_csv(path, index=False)
  return str(path)


def write_metrics(path, dense, sparsity, steps=1200, tokens=8192, seed=0):
  """A metrics file as a run writes it: the loss has slope 0.2 before a knee and 0.04 behind it."""
  keys = SparsityKeys(sparsity=sparsity, gmp_pruning_frequency=20)
  schedule = build_schedule(keys, steps)
  noise = np.random.default_rng(seed).normal(0, 0.01, steps)
  flops = 0.0
  with open(path, "w") as file:
    for step in range(steps):
      flops += 6.0 * tokens * dense * (1.0 if step == 0 else schedule.target_density(step - 1))
      knee = 6.0 * tokens * dense * 40
      loss = 4.0 * min(flops / knee, 1.0) ** -0.2 * max(flops / knee, 1.0) ** -0.04 * np.exp(noise[step])
      metrics = {"learning/loss": loss, "learning/total_weights": tokens, "step": step, "run_name": path.stem}
      if sparsity:
        density = schedule.target_density(step)
        metrics |= {"pruning/prunable": dense, "pruning/nonzero_prunable": density * dense}
        metrics |= {"pruning/target_density": density}
      file.write(json.dumps(metrics) + "\n")
    file.write(json.dumps({"eval/avg_loss": loss, "step": steps - 1, "run_name": path.stem}) + "\n")
  return str(path)


def texts(result):
  """Every line of text in a figure; matplotlib draws letters as paths and notes what they say."""
  return re.findall(r"<!-- (.*?) -->", pathlib.Path(result["files"][1]).read_text())


@pytest.fixture
def out(tmp_path):
  """Where figures go; MAXTEXT_SPARSE_FIGURES keeps them for a look."""
  return os.environ.get("MAXTEXT_SPARSE_FIGURES") or str(tmp_path / "figures")


@pytest.fixture
def pairs_table(tmp_path):
  """Four sparse runs of 138M, each with a dense twin of the same average size, and a little noise."""
  rows = []
  for index, sparsity in enumerate((0.2, 0.4, 0.6, 0.8)):
    sparse = row(f"s{100 * sparsity:g}", 138e6, sparsity, 33.5e9, 0.004 * index)
    rows += [sparse, row(f"twin{100 * sparsity:g}", sparse["average_params"] * 1.005, 0.0, 33.5e9)]
  return write_table(tmp_path / "pairs.csv", rows)


@pytest.fixture
def schedule_table(tmp_path):
  """The paper's 80 configurations: 10 schedules, 4 sparsities, 2 lengths."""
  shares = [(d, p) for d, p in itertools.product((0, 0.25, 0.5, 0.75), (0.25, 0.5, 0.75, 1.0)) if d + p <= 1]
  rows = []
  for (dense, prune), sparsity, tokens in itertools.product(shares, (0.2, 0.4, 0.6, 0.8), (33.5e9, 67.1e9)):
    penalty = sparsity * (0.15 * (dense - 0.25) ** 2 + 0.1 * (prune - 0.5) ** 2)
    shares_of = {"gmp_dense_fraction": dense, "gmp_prune_fraction": prune}
    rows.append(row(f"r{len(rows)}", 138e6, sparsity, tokens, penalty, **shares_of))
  return write_table(tmp_path / "schedules.csv", rows)


@pytest.fixture
def rate_table(tmp_path):
  """The paper's learning rates and batch sizes, at 5 sparsities."""
  rows = []
  grid = itertools.product((4e-4, 1.6e-3, 6.4e-3), (125_000, 500_000, 2_000_000), (0.0, 0.2, 0.4, 0.6, 0.8))
  for rate, batch, sparsity in grid:
    penalty = 0.03 * np.log(rate / 1.6e-3) ** 2 + 0.02 * np.log(batch / 5e5) ** 2
    rows.append(row(f"r{len(rows)}", 138e6, sparsity, 33.5e9, penalty, learning_rate=rate, batch_tokens=batch))
  return write_table(tmp_path / "rates.csv", rows)


@pytest.fixture
def law_table(tmp_path):
  """3 sizes x 5 sparsities x 2 lengths, as in the paper's fit."""
  generator = np.random.default_rng(0)
  cases = itertools.product((42e6, 138e6, 435e6), (0.0, 0.2, 0.4, 0.6, 0.8), (20e9, 90e9))
  rows = [row(f"r{i}", *case, generator.normal(0, 0.01)) for i, case in enumerate(cases)]
  return write_table(tmp_path / "law.csv", rows)


@pytest.fixture
def metrics_files(tmp_path):
  return [write_metrics(tmp_path / f"s{100 * s:g}.jsonl", 4.1e8, s, seed=i) for i, s in enumerate((0.2, 0.4, 0.6, 0.8))]


@pytest.fixture
def run_folder(tmp_path):
  """A run's folder with two event records: 12 layers of 7 matrices and the output head."""
  folder = tmp_path / "s80" / "sparsity"
  folder.mkdir(parents=True)
  kinds = ("mlp/wi_0", "mlp/wi_1", "mlp/wo", *(f"self_attention/{k}" for k in ("query", "key", "value", "out")))
  for step, density in ((600, 0.5), (1200, 0.2)):
    generator = np.random.default_rng(step)
    matrices = {
      f"decoder/layers/{kind}/kernel[{layer}]": float(density * generator.uniform(0.05 if "query" in kind else 0.7, 1.3))
      for kind, layer in itertools.product(kinds, range(12))
    } | {"decoder/logits_dense/kernel": density}
    event = {"step": step, "density": density, "nonzero_prunable": 5, "threshold": 0.1, "matrices": matrices}
    (folder / f"event_{step:08d}.json").write_text(json.dumps(event))
  (tmp_path / "s80" / "checkpoints" / "900").mkdir(parents=True)
  return str(tmp_path / "s80")
