"""Figure 1: which runs are compared, with what, and which N(t) is drawn for each."""

import numpy as np
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.plots import draw
from maxtext_sparse.plots.pairs import draw_pairs
from maxtext_sparse.schedule import average_density_limit
from tests.plots.conftest import row, texts, write_metrics, write_table


def with_twin(sparse, factor=1.0):
  """A sparse run and a dense one of `factor` times its average size."""
  return [sparse, row(f"twin-{sparse['run']}", factor * sparse["average_params"], 0.0, sparse["tokens"])]


def scheduled(name, dense_fraction, prune_fraction, shape="geometric", **columns):
  """A run of 80 % sparsity with the average size of its schedule."""
  average = 138e6 * average_density_limit(shape, 0.8, dense_fraction, prune_fraction)
  shares = {"gmp_dense_fraction": dense_fraction, "gmp_prune_fraction": prune_fraction}
  return row(name, 138e6, 0.8, 33.5e9, **shares, **columns) | {"average_params": average}


def test_the_loss_gap_is_reported(pairs_table, out):
  numbers = draw("pairs", [pairs_table], out)["numbers"]
  # The fixture adds 0, 0.004, ... to the law; twins 0.5 % larger cost the law another 0.001.
  assert list(numbers) == [f"sparse_minus_dense_s{percent}" for percent in (20, 40, 60, 80)]
  np.testing.assert_allclose(list(numbers.values()), [0.001, 0.005, 0.009, 0.013], atol=1.5e-3)


def test_two_neighbours_are_interpolated_and_look_so(tmp_path, out):
  sparse = row("s60", 138e6, 0.6, 33.5e9)
  size = sparse["average_params"]
  rows = [sparse, row("small", 0.95 * size, 0.0, 33.5e9), row("large", 1.05 * size, 0.0, 33.5e9)]
  result = draw("pairs", [write_table(tmp_path / "n.csv", rows)], out)
  assert abs(result["numbers"]["sparse_minus_dense_s60"]) < 1e-3
  assert "dense, interpolated" in texts(result) and "dense twin" not in texts(result)


def test_runs_without_a_twin_are_counted(tmp_path, out):
  rows = [*with_twin(row("a", 138e6, 0.6, 33.5e9)), row("b", 900e6, 0.6, 33.5e9), row("c", 138e6, 0.6, 67e9)]
  numbers = draw("pairs", [write_table(tmp_path / "t.csv", rows)], out)["numbers"]
  assert list(numbers) == ["sparse_minus_dense_a", "runs_without_twin"] and numbers["runs_without_twin"] == 2


def test_active_parameters_are_the_metrics_files(tmp_path, out):
  metrics = write_metrics(tmp_path / "s50.jsonl", 1e8, 0.5)
  # The row alone would not tell: its average is no schedule's.
  table = write_table(tmp_path / "t.csv", with_twin(row("s50", 1e8, 0.5, 1e9) | {"average_params": 0.9e8}))
  assert "no metrics file" not in texts(draw("pairs", [metrics, table], out))
  assert "no metrics file" in texts(draw("pairs", [table], out))


def test_panels_and_points_are_matched_by_name(pairs_table, out):
  """Once as a panel's title and once beside the point; in grey nothing else links them."""
  found = texts(draw("pairs", [pairs_table], out))
  assert "80 %, average 55.1M" in found and "80 %" in found
  assert not any("tokens" in text for text in found if "per token" not in text)


def test_lengths_are_named_where_they_differ(tmp_path, out):
  rows = [run for tokens in (33.5e9, 67e9) for run in with_twin(row(f"s{tokens:g}", 138e6, 0.6, tokens))]
  found = texts(draw("pairs", [write_table(tmp_path / "t.csv", rows)], out))
  # N(t) over the share of the run is one, so there is one panel.
  assert found.count("33.5B tokens") == found.count("67B tokens") == 1
  assert sum(text.startswith("60 %, average ") for text in found) == 1


def test_names_stay_inside_the_axes(pairs_table):
  figure, _ = draw_pairs([pairs_table], [])
  figure.draw_without_rendering()
  (axis,) = figure.subfigs[1].axes
  for text in axis.texts:
    assert axis.bbox.x0 <= text.get_window_extent().x0 and text.get_window_extent().x1 <= axis.bbox.x1


@pytest.mark.parametrize(
  ("run", "start", "end"),
  [
    # With avg = 1 / (f_d + f_p / m + f_r / (1 - S)), pruning begins at f_d avg and takes f_p avg / m of the steps.
    (scheduled("best", 0.25, 0.5), 10.0, 50.1),
    (scheduled("early", 0.0, 0.25), 0.0, 11.5),
    (scheduled("late-linear", 0.5, 0.5, "linear", pruning_schedule="linear"), 37.5, 100.0),
    (row("no-columns", 138e6, 0.8, 33.5e9), 10.0, 50.1),
    # Of steps: avg = 0.25 + 0.5 m + 0.25 (1 - S).
    (
      scheduled("of-steps", 0.25, 0.5, gmp_fraction_of="steps") | {"average_params": 138e6 * (0.3 + 0.4 / np.log(5))},
      25.0,
      75.0,
    ),
  ],
  ids=lambda value: value["run"] if isinstance(value, dict) else "",
)
def test_without_metrics_the_rows_own_schedule_is_drawn(tmp_path, run, start, end):
  figure, _ = draw_pairs([write_table(tmp_path / "t.csv", with_twin(run))], [])
  axis = figure.subfigs[0].axes[0]
  progress, active = axis.lines[0].get_data()
  assert axis.get_xlim() == (0, 100) and not axis.texts
  np.testing.assert_allclose(progress[active < 138e6][0], start, atol=1.0)
  np.testing.assert_allclose(progress[active <= 138e6 * 0.2001][0], end, atol=1.0)


def test_explicit_steps_are_of_the_runs_length(tmp_path):
  """One event at step 300 of 1000: 0.301 + 0.699 (1 - S) of the weights on average."""
  columns = {"pruning_method": "one-shot", "gmp_start_step": 300, "batch_tokens": 1e6}
  run = row("one", 138e6, 0.5, 1e9, **columns) | {"average_params": 138e6 * 0.6505}
  figure, _ = draw_pairs([write_table(tmp_path / "t.csv", with_twin(run))], [])
  progress, active = figure.subfigs[0].axes[0].lines[0].get_data()
  np.testing.assert_allclose(progress[active < 138e6][0], 30.1)


def test_no_curve_where_the_schedule_is_not_the_rows(tmp_path, out):
  run = scheduled("early", 0.0, 0.25) | {"gmp_dense_fraction": 0.25}
  assert "no metrics file" in texts(draw("pairs", [write_table(tmp_path / "t.csv", with_twin(run))], out))


def test_a_wrong_schedule_names_run_and_column(tmp_path, out):
  table = write_table(tmp_path / "t.csv", with_twin(row("a", 138e6, 0.8, 33.5e9, pruning_schedule="cosine")))
  with pytest.raises(ConfigError, match=r"^run a: pruning_schedule='cosine': must be 'geometric', 'cubic' or 'linear'$"):
    draw("pairs", [table], out)
