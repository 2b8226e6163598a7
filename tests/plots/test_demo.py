"""The demo's figure is drawn, and its loss curves are readable."""

import dataclasses

from maxtext_sparse.demo.results import RunCurves
from maxtext_sparse.plots.demo import draw_demo, save_demo, smoothed

STEPS = [float(step) for step in range(40)]
CURVES = {
  name: RunCurves((STEPS, [8.0 - 0.1 * step for step in STEPS]), ([20.0, 39.0], [6.1, 4.2]), (STEPS, params))
  for name, params in {"dense": [1000] * 40, "sparse": [1000] * 20 + [200] * 20, "twin": [400] * 40}.items()
}
TITLES = {"dense": "dense", "sparse": "sparse 80 %", "twin": "dense twin"}


def test_the_picture_is_written_as_png_and_svg(tmp_path):
  path = save_demo(str(tmp_path / "demo"), CURVES, TITLES)
  assert path == str(tmp_path / "demo.png") and (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
  text = (tmp_path / "demo.svg").read_text()
  assert all(f"<!-- {title} -->" in text for title in ("sparse 80 %", "sparse 80 %: 4.200", "Active parameters N(t)"))


def test_active_parameters_are_on_the_left_and_losses_on_the_right():
  params_axis, loss_axis = draw_demo(CURVES, TITLES).axes
  assert [list(line.get_ydata())[-1] for line in params_axis.lines] == [1000, 200, 400]
  assert [line.get_label() for line in held_out(loss_axis)] == ["dense: 4.200", "sparse 80 %: 4.200", "dense twin: 4.200"]


def test_the_runs_can_be_told_apart_without_colour():
  params_axis, loss_axis = draw_demo(CURVES, TITLES).axes
  assert len({line.get_marker() for line in held_out(loss_axis)}) == 3
  # matplotlib calls every dash of one's own "--".
  for lines in (held_out(loss_axis), params_axis.lines):
    assert len({str(line._dash_pattern) for line in lines}) == 3


def test_the_loss_before_training_does_not_set_the_scale():
  first = {name: dataclasses.replace(c, eval_loss=([0.0, 20.0, 39.0], [9.0, 6.1, 4.2])) for name, c in CURVES.items()}
  _, loss_axis = draw_demo(first, TITLES).axes
  # The training loss is 7.0 after a quarter of the steps.
  assert 7.0 < loss_axis.get_ylim()[1] < 7.5


def held_out(axis):
  return [line for line in axis.lines if not line.get_label().startswith("_")]


def test_smoothing_keeps_means_and_short_curves():
  steps, values = smoothed(([float(t) for t in range(140)], [float(t) for t in range(140)]))
  assert len(values) == 70 and values[0] == 0.5 and steps[-1] == 139.0
  assert smoothed(([0.0, 1.0], [5.0, 4.0])) == ([0.0, 1.0], [5.0, 4.0])
