"""What the commands that READMEs show read: tables and event files of trackers, and a finished study."""

from pathlib import Path

import pandas as pd
import yaml

from maxtext_sparse.sweeps.make import make
from tests.laws.test_tracking import DENSE, write_events
from tests.reports.test_study_report import train
from tests.sweeps.conftest import TINY


def write_inputs(folder: Path) -> None:
  """Writes `export.csv`, `tracked/`, `chinchilla.csv` and `study/`."""
  write_export(folder / "export.csv")
  write_events(folder / "tracked" / "s50", 0.5)
  write_events(folder / "tracked" / "dense", 0.0)
  pd.DataFrame([[1e8, 2e9, 3.0], [2e8, 4e9, 2.8]], columns=["params", "tokens", "loss"]).to_csv(
    folder / "chinchilla.csv", index=False
  )
  write_study(folder / "study")


def write_export(path: Path) -> None:
  """A runs table of Weights & Biases: a dense run, a sparse one, and one that did not finish."""
  rows = [
    {"Name": "dense", "State": "finished", "sparsity": 0.0, "tokens": 1e9, "eval/avg_loss": 3.0},
    {
      "Name": "s80",
      "State": "finished",
      "sparsity": 0.8,
      "pruning/prunable": DENSE,
      "pruning/average_params": 0.4 * DENSE,
      "pruning/nonzero_prunable": 0.2 * DENSE,
      "pruning/effective_flops": 6 * 0.4 * DENSE * 1e9,
      "eval/avg_loss": 3.1,
    },
    {"Name": "s90", "State": "crashed", "sparsity": 0.9},
  ]
  pd.DataFrame(rows).to_csv(path, index=False)


def write_study(folder: Path) -> None:
  """18 runs whose losses follow the average law: 3 sizes, 2 lengths and 3 sparsities."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  (folder.parent / "tiny.yml").write_text(yaml.safe_dump(TINY))
  sizes = {"s": {}, "m": {"base_num_decoder_layers": 2}, "l": {"base_num_decoder_layers": 4}}
  axes = {"size": sizes, "steps": [100, 200], "sparsity": [0.0, 0.4, 0.8]}
  spec = {"name": "study", "base": "tiny.yml", "axes": axes}
  (folder.parent / "study.yml").write_text(yaml.safe_dump(spec))
  train(make(str(folder.parent / "study.yml"), str(folder)))
