"""Tables of runs: the public data where it is at hand, and runs of a known law."""

import itertools
import pathlib

import numpy as np
import pandas as pd
import pytest

from maxtext_sparse.laws.public_data import convert
from maxtext_sparse.laws.runs_table import check_runs
from maxtext_sparse.schedule import average_density_limit

_FILES = {"t5": "t5-data.csv", "vit": "vit-data.json"}


def public_file(source):
  """Path of a published file; skips the test where the shared data is not at hand."""
  path = pathlib.Path(__file__).parents[3] / "shared" / "data" / _FILES[source]
  if not path.exists():
    pytest.skip(f"{path} is not here: the public runs are kept outside the repository")
  return str(path)


def runs_of(loss, sizes=(42e6, 138e6, 435e6), sparsities=(0.0, 0.2, 0.4, 0.6, 0.8), ratios=(200, 400)):
  """The paper's grid of runs, tokens in proportion to the size, with losses by `loss(table)`."""
  cases = np.array(list(itertools.product(sizes, sparsities, ratios)))
  density = np.array([average_density_limit("geometric", s, 0.25, 0.5) for s in cases[:, 1]])
  table = pd.DataFrame(
    {
      "run": [f"r{index}" for index in range(len(cases))],
      "sparsity": cases[:, 1],
      "dense_params": cases[:, 0],
      "average_params": cases[:, 0] * density,
      "final_params": cases[:, 0] * (1 - cases[:, 1]),
      "tokens": cases[:, 0] * cases[:, 2],
    }
  )
  return table.assign(loss=np.asarray(loss(table)))


def average_law(table, a=406.4, b=410.7, e=1.69, alpha=0.34, beta=0.28):
  return a / table["average_params"] ** alpha + b / table["tokens"] ** beta + e


@pytest.fixture
def runs():
  """30 runs of the average law with 0.5 % of scatter."""
  scatter = np.exp(np.random.default_rng(0).normal(0, 0.005, 30))
  return check_runs(runs_of(lambda table: average_law(table) * scatter))


@pytest.fixture(scope="session")
def t5():
  return convert(public_file("t5"), "t5")


@pytest.fixture(scope="session")
def vit():
  return convert(public_file("vit"), "vit")
