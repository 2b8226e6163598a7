"""The demo's figure is drawn, and its loss curves are readable."""

from maxtext_sparse.demo.results import RunCurves
from maxtext_sparse.plots.demo import draw_demo, save_demo, smoothed

STEPS = [float(step) for step in range(40)]
CURVES = {
  name: RunCurves((STEPS, [8.0 - 0.1 * step for step in STEPS]), ([20.0, 39.0], [6.1, 4.2]), (STEPS, params))
  for name, params in {"dense": [1000] * 40, "sparse": [1000] * 20 + [200] * 20}.items()
}
TITLES = {"dense": "dense", "sparse": "sparse 80 %"}


def test_the_picture_is_written_as_png_and_svg(tmp_path):
  path = save_demo(str(tmp_path / "demo"), CURVES, TITLES)
  assert path == str(tmp_path / "demo.png") and (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
  text = (tmp_path / "demo.svg").read_text()
  assert all(f"<!-- {title} -->" in text for title in ("sparse 80 %", "sparse 80 %, held-out", "Active parameters N(t)"))


def test_the_runs_can_be_told_apart_without_colour():
  loss_axis, params_axis = draw_demo(CURVES, TITLES).axes
  dense, sparse = (line for line in loss_axis.lines if line.get_label().endswith("held-out"))
  assert dense.get_marker() != sparse.get_marker() and dense.get_linestyle() != sparse.get_linestyle()
  dense, sparse = params_axis.lines
  assert dense.get_linestyle() != sparse.get_linestyle()


def test_smoothing_keeps_means_and_short_curves():
  steps, values = smoothed(([float(t) for t in range(140)], [float(t) for t in range(140)]))
  assert len(values) == 70 and values[0] == 0.5 and steps[-1] == 139.0
  assert smoothed(([0.0, 1.0], [5.0, 4.0])) == ([0.0, 1.0], [5.0, 4.0])
