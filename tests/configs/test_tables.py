"""The tables of runs beside the sweep files."""

import pathlib

import pandas as pd

SWEEPS = pathlib.Path(__file__).parents[2] / "configs" / "sweeps"


def table(name):
  return pd.read_csv(SWEEPS / f"{name}.csv")


def test_the_table_of_two_lengths_holds_the_pairs_and_the_unchanged_runs_of_the_causes():
  causes = table("mini-causes")
  unchanged = causes[(causes.sparsity == 0) | (causes.change == "plain")]
  expected = pd.concat([table("mini-pairs"), unchanged], ignore_index=True)
  together = table("mini-lengths")
  columns = ["run", "sparsity", "dense_params", "average_params", "final_params", "tokens", "loss"]
  pd.testing.assert_frame_equal(together[columns], expected[columns])
