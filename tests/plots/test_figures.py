"""Every figure is drawn as PNG and SVG, says what it shows, and refuses inputs that cannot give it."""

import json
import pathlib

import numpy as np
import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.laws.forms import LAWS
from maxtext_sparse.plots import draw, FIGURES, style
from maxtext_sparse.plots.compute import eq5_coefficient, fit_two_slopes
from maxtext_sparse.plots.density import draw_density
from maxtext_sparse.plots.inputs import read_inputs
from tests.plots.conftest import row, texts, write_metrics, write_table
from tests.plots.page import check_page, check_ticks

# Figure -> fixture with its inputs.
INPUTS = {
  "pairs": "pairs_table",
  "gap": "law_table",
  "compute": "metrics_files",
  "accuracy": "law_table",
  "schedules": "schedule_table",
  "rates": "rate_table",
  "phases": "schedule_table",
  "density": "run_folder",
  "isoflop": "law_table",
  "frontier": "law_table",
}


def paths_of(request, figure):
  value = request.getfixturevalue(INPUTS[figure])
  return value if isinstance(value, list) else [value]


def test_every_figure_is_tested():
  assert set(INPUTS) == set(FIGURES)


@pytest.mark.parametrize("figure", FIGURES)
def test_draws_png_and_svg(request, out, monkeypatch, figure):
  save = style.save

  def checked(made, stem):
    check_page(made, monkeypatch)
    check_ticks(made)
    return save(made, stem)

  monkeypatch.setattr(style, "save", checked)
  result = draw(figure, paths_of(request, figure), out, "average,chinchilla" if figure == "accuracy" else "average")
  png, svg = (pathlib.Path(path).read_bytes() for path in result["files"])
  assert png.startswith(b"\x89PNG") and len(png) > 10_000
  assert b"<svg" in svg and svg.rstrip().endswith(b"</svg>")
  assert result["numbers"] and json.dumps(result)


def test_svg_is_the_same_each_time(pairs_table, tmp_path):
  first, second = (pathlib.Path(draw("pairs", [pairs_table], str(tmp_path / n))["files"][1]).read_text() for n in "ab")
  assert first == second


def test_two_slopes_are_recovered():
  flops = np.geomspace(1e16, 1e20, 300)
  loss = 5.0 * np.minimum(flops / 1e18, 1) ** -0.203 * np.maximum(flops / 1e18, 1) ** -0.041
  fit = fit_two_slopes(flops, loss)
  np.testing.assert_allclose([fit.alpha_early, fit.alpha_late], [0.203, 0.041], rtol=0.02)
  np.testing.assert_allclose(fit.knee_flops, 1e18, rtol=0.05)
  np.testing.assert_allclose(fit.loss(flops), loss, rtol=5e-3)


def test_eq5_coefficient_of_constant_compute(tmp_path):
  """With N constant C_{0:k-1} grows as k, so the coefficient is k^(-alpha-1)."""
  table = write_table(tmp_path / "d.csv", [row("dense", 1e6, 0.0, 8192 * 1000)])
  (curve,), _ = read_inputs([write_metrics(tmp_path / "dense.jsonl", 1e6, 0.0, steps=1000), table])
  np.testing.assert_allclose(eq5_coefficient(curve, 0.2), np.arange(1, 11) ** -1.2, rtol=1e-9)


def test_compute_says_how_many_sizes_share_the_fit(tmp_path, out):
  paths = [write_metrics(tmp_path / f"{size:g}.jsonl", size, 0.5, steps=300) for size in (1e8, 2e8)]
  assert "one fit to 2 runs of 2 sizes" in texts(draw("compute", paths, out))
  assert not any("sizes" in text for text in texts(draw("compute", paths[:1], out)))


def test_compute_of_a_dense_run_has_no_pruning_iterations(tmp_path, out):
  table = write_table(tmp_path / "d.csv", [row("dense", 1e6, 0.0, 8192 * 300)])
  result = draw("compute", [write_metrics(tmp_path / "dense.jsonl", 1e6, 0.0, steps=300), table], out)
  assert {"coefficient of eq. 5 of dense", "intervals k (100 steps each)"} <= set(texts(result))
  # Constant compute over 3 intervals: from the second to the third the coefficient falls by (3 / 2)^(-alpha - 1).
  expected = 1.5 ** (-result["numbers"]["alpha_late"] - 1)
  np.testing.assert_allclose(result["numbers"]["eq5_coefficient_factor_over_second_half_alpha_late"], expected, rtol=1e-3)


def test_accuracy_of_all_laws(law_table, out):
  assert list(draw("accuracy", [law_table], out, "all")["numbers"]) == [f"mae_{name}" for name in LAWS]


def test_metrics_give_a_table(tmp_path):
  (curve,), table = read_inputs([write_metrics(tmp_path / "s80.jsonl", 1e8, 0.8)])
  assert curve.period == 20
  np.testing.assert_allclose(table[["sparsity", "final_params", "tokens"]], [[0.8, 2e7, 1200 * 8192]])
  np.testing.assert_allclose(table["average_params"], curve.flops[-1] / (6 * 1200 * 8192))


def test_density_of_a_checkpoint_is_of_the_event_before_it(run_folder, out):
  assert draw("density", [run_folder], out)["numbers"]["step"] == 1200
  assert draw("density", [f"{run_folder}/checkpoints/900"], out)["numbers"]["step"] == 600


def test_density_colours_are_in_percent_as_the_cells(run_folder):
  cells, bar = draw_density([run_folder], [])[0].axes
  assert max(float(text.get_text()) for text in cells.texts) == pytest.approx(bar.get_ylim()[1], rel=0.05)
  assert bar.get_ylabel() == "% of the matrix's weights left"


@pytest.mark.parametrize(
  ("figure", "fixture", "message"),
  [
    ("nonsense", "pairs_table", "FIGURE=nonsense"),
    ("schedules", "pairs_table", "gmp_dense_fraction is missing"),
    ("rates", "pairs_table", "learning_rate is missing"),
    ("compute", "pairs_table", "needs metrics files"),
    ("pairs", "law_table", "no sparse run has dense runs"),
    ("density", "pairs_table", "holds no densities of matrices"),
  ],
)
def test_refuses_with_one_line(request, out, figure, fixture, message):
  with pytest.raises(ConfigError, match=message) as caught:
    draw(figure, [request.getfixturevalue(fixture)], out)
  assert "\n" not in str(caught.value)


def test_dense_metrics_need_a_table(tmp_path, out):
  path = write_metrics(tmp_path / "dense.jsonl", 1e6, 0.0, steps=300)
  with pytest.raises(ConfigError, match="give a RUNS"):
    draw("compute", [path], out)


def test_a_damaged_line_of_metrics_is_named_and_a_torn_last_one_left_out(tmp_path, out):
  path = tmp_path / "m.jsonl"
  path.write_text('{"step": 0, "lear\n{"step": 1, "learning/loss": 3.0}\n')
  with pytest.raises(ConfigError, match="line 1"):
    draw("compute", [str(path)], out)
  path.write_text('{"step": 0, "learning/loss": 3.0}\n{"step": 1, "lear')
  with pytest.raises(ConfigError, match="no pruning metrics"):
    draw("compute", [str(path)], out)
