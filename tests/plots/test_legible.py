"""Every figure fits a page, and its texts are whole and never overprint; series can be told apart in grey."""

import itertools
import json
import pathlib
import types

from matplotlib.colors import to_rgb
import numpy as np
import pytest

from maxtext_sparse.config import parse_keys
from maxtext_sparse.laws.contours import Contours
from maxtext_sparse.laws.fit import fit
from maxtext_sparse.laws.forms import LAWS
from maxtext_sparse.laws.profile import profiles
from maxtext_sparse.laws.runs_table import read_runs
from maxtext_sparse.laws.uncertainty import bootstrap
from maxtext_sparse.plan.cost import make_plan
from maxtext_sparse.plots import decide, diagnostics, plan, style
from maxtext_sparse.plots.accuracy import draw_fits
from maxtext_sparse.plots.cells import draw_cells, short
from maxtext_sparse.plots.compute import draw_compute
from maxtext_sparse.plots.demo import draw_demo
from maxtext_sparse.plots.density import draw_density
from maxtext_sparse.plots.inputs import read_inputs
from maxtext_sparse.plots.inspect import density_grid
from maxtext_sparse.plots.pairs import draw_pairs
from maxtext_sparse.plots.study import draw_curves
from maxtext_sparse.plots.sweeps import draw_rates, draw_schedules
from tests.plots.conftest import row, write_metrics, write_table
from tests.plots.page import check_page, check_ticks
from tests.plots.test_demo import CURVES, TITLES

REPO = pathlib.Path(__file__).parents[2]
MINI = [str(REPO / "configs" / "sweeps" / f"mini-{name}.csv") for name in ("pairs", "causes", "law", "remedies")]


@pytest.fixture
def in_style():
  with style.in_style():
    yield


@pytest.mark.parametrize("table", MINI, ids=lambda path: pathlib.Path(path).stem)
def test_pairs_of_real_runs_never_collide(in_style, monkeypatch, table):
  """Eight runs of one size end within 0.02 of each other in one of these tables."""
  tables = [table, MINI[0]] if "remedies" in table else [table]
  figure, _ = draw_pairs(tables, [])
  check_page(figure, monkeypatch)
  check_ticks(figure)
  (losses,) = figure.subfigs[1].axes
  assert len(losses.texts) == sum(line.get_marker() == "s" for line in losses.lines)


def test_many_pairs_are_one_page(in_style, tmp_path, monkeypatch):
  """4 sizes, 3 sparsities and 2 lengths are 12 panels: N(t) over the share of the run is the same for both lengths."""
  rows = []
  for size, sparsity, tokens in itertools.product((42e6, 138e6, 435e6, 1.3e9), (0.4, 0.6, 0.8), (20e9, 67e9)):
    sparse = row(f"r{len(rows)}", size, sparsity, tokens, 0.01)
    rows += [sparse, row(f"t{len(rows)}", sparse["average_params"], 0.0, tokens)]
  figure, _ = draw_pairs([write_table(tmp_path / "t.csv", rows)], [])
  assert len(figure.subfigs[0].axes) == 12 and len(figure.subfigs[1].axes[0].texts) == 24
  check_page(figure, monkeypatch)
  check_ticks(figure)


def test_many_schedules_are_one_page(in_style, tmp_path, monkeypatch):
  rows = []
  shares = [(d, p) for d, p in itertools.product((0, 0.25, 0.5, 0.75), (0.25, 0.5, 0.75, 1.0)) if d + p <= 1]
  kinds = itertools.product((42e6, 138e6, 435e6, 1.3e9), (20e9, 33.5e9, 67e9))
  for (size, tokens), (dense, prune), sparsity in itertools.product(kinds, shares, (0.4, 0.8)):
    rows.append(row(f"r{len(rows)}", size, sparsity, tokens, gmp_dense_fraction=dense, gmp_prune_fraction=prune))
  figure, _ = draw_schedules([write_table(tmp_path / "t.csv", rows)], [])
  assert len(figure.axes) == 12
  check_page(figure, monkeypatch)
  check_ticks(figure)


@pytest.mark.parametrize("span", [1.05, 1.4, 2.0, 4.0, 12.0, 300.0, 1e6, 1e13])
def test_labels_of_a_logarithmic_axis_never_touch(in_style, monkeypatch, span):
  for start in (1.0, 2.7, 8.9e9):
    figure, axes = style.panels(1, 1, width=2.5, height=2.5)
    axes[0, 0].plot([start, start * span], [start, start * span])
    axes[0, 0].set(xscale="log", yscale="log")
    style.log_ticks(axes[0, 0].xaxis, most=4)
    style.log_ticks(axes[0, 0].yaxis, style.flops_text)
    for side in (axes[0, 0].xaxis, axes[0, 0].yaxis):
      assert 2 <= len(side.get_majorticklocs()) <= 5
    check_page(figure, monkeypatch)


def test_compute_over_a_narrow_range(in_style, tmp_path, monkeypatch):
  """Within a decade matplotlib labels every minor tick, and the labels run into each other."""
  figure, _ = draw_compute([write_metrics(tmp_path / "s50.jsonl", 1e8, 0.5, steps=300)], [])
  check_page(figure, monkeypatch)


def test_a_legend_of_compute_covers_no_curve(in_style, metrics_files):
  figure, _ = draw_compute(metrics_files, [])
  figure.draw_without_rendering()
  (legend,) = figure.legends
  assert not legend.get_window_extent().overlaps(figure.axes[0].bbox)


def other_figures(law_table, metrics_files):
  fitted = fit(LAWS["average"], read_runs(law_table))
  grid = np.geomspace(1.0, 40.0, 12)
  contours = Contours("average", grid * 1e6, grid * 1e9, 0.1 + 0.01 * np.add.outer(grid, grid[::-1]), 0.9)
  yield "accuracy", draw_fits([fitted] * 6)[0]
  yield "residuals", diagnostics.draw_residuals(fitted)
  yield "profiles", diagnostics.draw_profiles(profiles(fitted, bootstrap(fitted, 20)))
  yield "curves", draw_curves(read_inputs(metrics_files)[0])
  yield "contours", decide.draw_contours(contours)
  yield "life", decide.draw_life(life(fitted))
  yield "demo", draw_demo(CURVES, TITLES)
  for dense, prune in ((0.25, 0.5), (0.02, 0.03), (0.9, 0.05), (0.0, 1.0)):
    keys = parse_keys({"sparsity": 0.8, "gmp_dense_fraction": dense, "gmp_prune_fraction": prune})
    yield f"plan {dense} {prune}", plan.draw_plan(make_plan(keys, 16_000, num_prunable=138_000_000))


def life(fitted):
  served = np.geomspace(2e6, 2e13, 60)
  bills = served, 1e17 + 2e7 * served, 1.1e17 + 4e6 * served
  budget = types.SimpleNamespace(inference_tokens=1e10)
  quality = types.SimpleNamespace(loss=2.5, fit=fitted)
  return types.SimpleNamespace(curves=lambda: bills, budget=budget, quality=quality, break_even=6e8)


def test_the_other_figures_are_as_legible(in_style, monkeypatch, law_table, metrics_files):
  for name, figure in other_figures(law_table, metrics_files):
    try:
      check_page(figure, monkeypatch)
      check_ticks(figure)
    except AssertionError as error:
      raise AssertionError(f"{name}: {error}") from error


def test_series_differ_without_colour():
  """In dash and in marker, and each is dark enough for a line on white."""
  looks = [style.series(index) for index in range(8)]
  assert len({str(look["linestyle"]) for look in looks}) == len({look["marker"] for look in looks}) == 8
  greys = [grey(look["color"]) for look in looks]
  assert max(greys) < 0.65
  assert len(set(style.HATCHES)) == 8
  # The first four also differ in lightness, by a tenth of the way from black to white.
  assert (np.diff(greys[:4]) > 0.1).all()


def grey(colour):
  """Lightness as a picture has it after its conversion to grey (ITU-R 601)."""
  return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


def test_nothing_left_and_no_such_matrix_look_different(in_style, run_folder):
  event = sorted(pathlib.Path(run_folder, "sparsity").glob("*.json"))[-1]
  record = json.loads(event.read_text())
  record["matrices"]["decoder/layers/mlp/wo/kernel[3]"] = 0.0
  event.write_text(json.dumps(record))
  figure, _ = draw_density([run_folder], [])
  cells = figure.axes[0]
  missing = sum(bool(patch.get_hatch()) for patch in cells.patches)
  # The head is outside of the 12 layers, and 7 kinds have no matrix there.
  assert missing == 12 + 7 and [text.get_text() for text in cells.texts].count("0") == 1
  assert len(cells.texts) + missing == 8 * 13
  assert [text.get_text() for text in figure.legends[0].get_texts()] == ["no such matrix"]


def test_a_full_grid_of_cells_has_no_legend(in_style):
  full = draw_cells(*density_grid([{"name": f"model.layers.{i}.mlp.up_proj.weight", "density": 0.5} for i in range(3)]))
  assert not full.legends and not any(patch.get_hatch() for patch in full.axes[0].patches)


def test_a_cell_says_100_only_where_nothing_was_removed():
  assert [short(left) for left in (0.0, 0.004, 12.34, 99.4, 99.97, 100.0)] == ["0", "0.004", "12", "99", ">99", "100"]


def test_rates_of_two_sparsities_are_one_row_with_its_whole_colour_bar(in_style, tmp_path, monkeypatch):
  rows = [
    row(f"r{rate}-{sparsity}", 20_000, sparsity, 2e5, rate, learning_rate=rate, batch_tokens=2048)
    for rate, sparsity in itertools.product((0.002, 0.01, 0.05), (0.0, 0.8))
  ]
  figure, _ = draw_rates([write_table(tmp_path / "rates.csv", rows)], [])
  check_page(figure, monkeypatch)
