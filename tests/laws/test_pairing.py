"""Which dense runs a sparse run is compared with, and what several seeds say together."""

import math

import pandas as pd
import pytest

from maxtext_sparse.laws.pairing import find_pairs, label_gaps


def run(name, sparsity, dense, average, loss, tokens=1e6, **columns):
  counts = {"dense_params": dense, "average_params": average, "final_params": dense * (1 - sparsity)}
  return {"run": name, "sparsity": sparsity, **counts, "tokens": tokens, "loss": loss, **columns}


def dense(name, size, loss, **columns):
  return run(name, 0.0, size, size, loss, **columns)


def gaps(rows, within=1.5):
  return {group.first.sparse["run"]: group.gap for group in find_pairs(pd.DataFrame(rows), within)}


def test_a_run_of_the_average_size_is_the_twin():
  rows = [run("s", 0.8, 1000, 400, 3.0), dense("a", 404, 2.9), dense("b", 500, 2.0), dense("c", 350, 3.5)]
  assert gaps(rows) == pytest.approx({"s": 0.1})


def test_two_neighbours_are_interpolated_on_the_logarithm_of_size():
  """400 is half-way between 200 and 800 on a logarithmic scale."""
  rows = [run("s", 0.8, 1000, 400, 3.0), dense("a", 200, 3.2), dense("b", 800, 2.6)]
  assert gaps(rows, within=2.0) == pytest.approx({"s": 0.1})
  assert gaps(rows, within=1.9) == {}


def test_a_power_law_is_interpolated_well():
  """Neighbours that are 20 % away on both sides cost 0.003; a straight line in N itself would cost 0.013."""

  def loss(size):
    return 1.5 + 10 * size**-0.3

  rows = [run("s", 0.8, 1000, 400, loss(400)), dense("a", 320, loss(320)), dense("b", 480, loss(480))]
  assert abs(gaps(rows)["s"]) < 4e-3


def test_other_lengths_and_one_sided_neighbours_are_no_twins():
  sparse = run("s", 0.8, 1000, 400, 3.0)
  assert gaps([sparse, dense("a", 400, 2.9, tokens=2e6)]) == {}
  assert gaps([sparse, dense("a", 450, 2.9), dense("b", 500, 2.8)]) == {}


def test_seeds_are_compared_with_their_own_twins_and_reported_together():
  rows = []
  for seed, gap in enumerate((0.012, 0.018, 0.015)):
    twin = 3.0 + 0.1 * seed
    rows += [run(f"s{seed}", 0.8, 1000, 400, twin + gap, seed=seed), dense(f"d{seed}", 400, twin, seed=seed)]
  (group,) = find_pairs(pd.DataFrame(rows), 1.5)
  assert [pair.gap for pair in group.pairs] == pytest.approx([0.012, 0.018, 0.015])
  assert group.gap == pytest.approx(0.015) and group.gap_error == pytest.approx(0.003 / math.sqrt(3))
  assert group.sparse_loss - group.twin_loss == pytest.approx(0.015)
  assert label_gaps([group]) == pytest.approx(
    {
      "sparse_minus_dense_s0": 0.012,
      "sparse_minus_dense_s1": 0.018,
      "sparse_minus_dense_s2": 0.015,
      "mean_80_3_seeds": 0.015,
      "standard_error_80_3_seeds": 0.0017,
    }
  )


def test_runs_that_differ_in_a_setting_are_apart():
  rows = [dense("d", 400, 3.0, rate=1.0), *(run(f"s{rate}", 0.8, 1000, 400, 3.1, rate=rate) for rate in (1.0, 2.0))]
  groups = find_pairs(pd.DataFrame(rows), 1.5)
  assert [len(group.pairs) for group in groups] == [1, 1] and groups[0].gap_error is None
