"""Runs of trackers: what MaxText logs is what the table gets, and what a tracker cannot know is asked for."""

import numpy as np
import pandas as pd
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.public_data import convert
from maxtext_sparse.laws.tracking import parse_dense_params

DENSE, TOKENS, STEPS = 1_000_000, 2048, 40


def write_events(folder, sparsity, steps=STEPS):
  """Event files as MaxText writes them, through the library that it brings; half of the weights go at step 20."""
  writer = pytest.importorskip("tensorboardX").SummaryWriter(str(folder))
  for step in range(steps):
    kept = DENSE * (1 - sparsity) if step >= 20 else DENSE
    writer.add_scalar("learning/loss", 5.0 - 0.01 * step, step)
    writer.add_scalar("learning/total_weights", TOKENS, step)
    if sparsity:
      writer.add_scalar("pruning/prunable", DENSE, step)
      writer.add_scalar("pruning/nonzero_prunable", kept, step)
      writer.add_scalar("pruning/target_density", kept / DENSE, step)
  writer.add_scalar("eval/avg_loss", 4.5, steps - 1)
  writer.close()


def test_event_files_become_rows(tmp_path):
  write_events(tmp_path / "runs" / "s50", 0.5)
  write_events(tmp_path / "runs" / "dense" / "tensorboard", 0.0)
  table = convert(str(tmp_path / "runs"), "tensorboard", {"dense": DENSE}).set_index("run")
  sparse, dense = table.loc["s50"], table.loc["dense"]
  assert (sparse["sparsity"], sparse["final_params"], sparse["tokens"]) == (0.5, 500_000, STEPS * TOKENS)
  # Steps 0..20 see all weights, 21..39 half of them.
  assert sparse["average_params"] == pytest.approx((21 * DENSE + 19 * DENSE / 2) / 40)
  assert dense["average_params"] == DENSE and dense["loss"] == sparse["loss"] == 4.5


def test_a_cut_off_event_file_ends_where_it_is_cut(tmp_path):
  write_events(tmp_path / "s50", 0.5)
  (file,) = (tmp_path / "s50").iterdir()
  file.write_bytes(file.read_bytes()[:-5])
  assert convert(str(tmp_path), "tensorboard")["loss"].item() == pytest.approx(np.mean(5.0 - 0.01 * np.arange(20, 40)))


def test_a_dense_run_of_unknown_size_is_asked_for(tmp_path):
  write_events(tmp_path / "dense", 0.0)
  with pytest.raises(ConfigError, match=r"run dense does not say how many .* give --dense-params dense=COUNT"):
    convert(str(tmp_path), "tensorboard")


@pytest.mark.parametrize("prefix", ["", "config."])
def test_a_weights_and_biases_export_becomes_rows(tmp_path, prefix):
  frame = pd.DataFrame(
    {
      "Name": ["dense", "s80", "broken"],
      "State": ["finished", "finished", "crashed"],
      f"{prefix}sparsity": [0.0, 0.8, 0.8],
      f"{prefix}tokens": [1e9, np.nan, np.nan],
      "pruning/prunable": [np.nan, 1e8, 1e8],
      "pruning/average_params": [np.nan, 4e7, 9e7],
      "pruning/nonzero_prunable": [np.nan, 2e7, 8e7],
      "pruning/effective_flops": [np.nan, 6 * 4e7 * 2e9, 1e12],
      "eval/avg_loss": [3.0, 3.1, np.nan],
    }
  )
  frame.to_csv(tmp_path / "export.csv", index=False)
  table = convert(str(tmp_path / "export.csv"), "wandb", {"dense": 1e8}).set_index("run")
  assert list(table.index) == ["dense", "s80"]
  assert table.loc["s80"].tolist() == [0.8, 1e8, 4e7, 2e7, 2e9, 3.1]
  assert table.loc["dense"].tolist() == [0.0, 1e8, 1e8, 1e8, 1e9, 3.0]


@pytest.mark.parametrize("columns", [("params", "tokens", "loss"), ("Model Size", "Training Tokens", "loss")])
def test_the_chinchilla_form_is_dense_runs(tmp_path, columns):
  pd.DataFrame([[1e8, 2e9, 3.0], [2e8, 4e9, 2.8]], columns=columns).to_csv(tmp_path / "c.csv", index=False)
  table = convert(str(tmp_path / "c.csv"), "chinchilla")
  assert (table["sparsity"] == 0).all() and table["final_params"].tolist() == [1e8, 2e8]


@pytest.mark.parametrize(
  ("source", "content", "message"),
  [
    ("chinchilla", "params,tokens\n1e8,1e9\n", "column loss is missing, the Chinchilla form has params, tokens, loss"),
    ("wandb", "Name,State\na,crashed\n", "has no finished run"),
    (
      "wandb",
      "Name,sparsity,dense_params,tokens\na,0,1e8,1e9\n",
      "run a has no loss, export a column loss",
    ),
    ("tensorboard", "", "holds no TensorBoard event file"),
    ("chinchilla", "", "not a readable CSV file"),
    ("wand", "", "did you mean wandb?"),
  ],
)
def test_what_cannot_be_converted_is_one_line(tmp_path, source, content, message):
  path = tmp_path / "data.csv"
  path.write_text(content)
  with pytest.raises(ConfigError) as caught:
    convert(str(path), source)
  assert message in str(caught.value) and "\n" not in str(caught.value)


def test_dense_params_of_one_run_or_of_all():
  assert parse_dense_params(["1e8", "a/b=2e8"]) == {"*": 1e8, "a/b": 2e8}
  with pytest.raises(ConfigError, match=r"--dense-params=a=x: must be COUNT or RUN=COUNT"):
    parse_dense_params(["a=x"])
