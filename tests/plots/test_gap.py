"""The gap between sparse runs and their twins: which length and sparsity a point has, and which runs are compared."""

import pandas as pd
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plots import draw
from maxtext_sparse.plots.gap import draw_gap
from tests.plots.conftest import row, texts, write_table


def study(tokens_per_weight, gaps, dense=20_000.0):
  """Sparse runs {sparsity: gap} of one length, each with a twin of just its average size."""
  rows = []
  for sparsity, gap in gaps.items():
    sparse = row(f"s{sparsity}", dense, sparsity, tokens_per_weight * dense)
    twin = row(f"twin{sparsity}", sparse["average_params"], 0.0, sparse["tokens"])
    rows += [sparse | {"loss": twin["loss"] + gap}, twin]
  return rows


def test_a_point_for_each_length_and_a_curve_for_each_sparsity(tmp_path, out):
  tables = [
    write_table(tmp_path / f"{ratio}.csv", study(ratio, {0.4: 0.1 / ratio, 0.8: 1 / ratio})) for ratio in (200, 10, 50)
  ]
  result = draw("gap", tables, out)
  expected = {"gap_40_at_10": 0.01, "gap_40_at_50": 0.002, "gap_40_at_200": 0.0005}
  expected |= {"gap_80_at_10": 0.1, "gap_80_at_50": 0.02, "gap_80_at_200": 0.005}
  assert result["numbers"] == pytest.approx(expected, abs=1e-4)
  assert {"40 %", "80 %", "sparsity"} <= set(texts(result))


def test_a_study_is_compared_with_its_own_dense_runs(tmp_path):
  """The second study trains on other text, on which every loss is 1 higher."""
  first = write_table(tmp_path / "first.csv", study(100, {0.8: 0.03}))
  table = pd.DataFrame(study(100, {0.6: 0.02}))
  second = write_table(tmp_path / "second.csv", table.assign(loss=table["loss"] + 1.0))
  _, numbers = draw_gap([first, second], [])
  assert numbers == pytest.approx({"gap_80_at_100": 0.03, "gap_60_at_100": 0.02}, abs=1e-4)


def test_sizes_of_one_length_are_points_and_the_curve_is_their_mean(tmp_path):
  sizes = {20_000.0: 0.02, 80_000.0: 0.06}
  tables = [write_table(tmp_path / f"{size:.0f}.csv", study(100, {0.8: gap}, size)) for size, gap in sizes.items()]
  figure, numbers = draw_gap(tables, [])
  assert numbers == pytest.approx({"gap_80_at_100": 0.04}, abs=1e-4)
  points, _, _ = figure.axes[0].containers[0].lines
  assert sorted(points.get_ydata()) == pytest.approx([0.02, 0.06], abs=1e-4)


def test_seeds_are_one_point_with_a_bar(tmp_path):
  rows = [run | {"seed": seed} for seed in range(3) for run in study(200, {0.8: 0.02 + 0.01 * seed})]
  figure, numbers = draw_gap([write_table(tmp_path / "t.csv", rows)], [])
  assert numbers == pytest.approx({"gap_80_at_200": 0.03}, abs=1e-4)
  (bars,) = figure.axes[0].containers[0].lines[2]
  (low, high) = bars.get_segments()[0][:, 1]
  # The standard deviation of 0.02, 0.03 and 0.04 is 0.01; a bar reaches 0.01 / sqrt(3) to each side.
  assert (high - low) / 2 == pytest.approx(0.01 / 3**0.5, abs=1e-5)


def test_without_twins_it_says_what_is_missing(tmp_path, out):
  table = write_table(tmp_path / "t.csv", [row("a", 1e6, 0.8, 1e8)])
  with pytest.raises(ConfigError, match="gap: no sparse run has dense runs of as many tokens"):
    draw("gap", [table], out)
  with pytest.raises(ConfigError, match="this figure is drawn from runs tables"):
    draw("gap", ["runs"], out)
