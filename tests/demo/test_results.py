"""The demo's closing figures: arithmetic of both runs, a collapse that is said, and a picture that is there."""

import json

import pytest
from rich.console import Console

from maxtext_sparse.config import parse_keys
from maxtext_sparse.demo import results as report
from maxtext_sparse.demo.training import RunSpec
from maxtext_sparse.local.progress import figures, num_done
from maxtext_sparse.schedule import build_schedule

STEPS, TOKENS, PRUNABLE = 40, 2048, 1000
SCHEDULE = build_schedule(parse_keys({"sparsity": 0.8, "gmp_pruning_frequency": 2}), STEPS)
TITLES = {"dense": "dense", "sparse": "sparse 80 %"}


def rows(is_sparse):
  train, held_out = [], []
  for step in range(STEPS):
    row = {"step": float(step), "learning/loss": 8.0 - 0.1 * step, "perf/per_device_tokens": float(TOKENS)}
    if is_sparse:
      active_sum = SCHEDULE.active_sum(step + 1, PRUNABLE, 0, None)
      density = SCHEDULE.target_density(step)
      row |= {
        "pruning/prunable": float(PRUNABLE),
        "pruning/nonzero_prunable": round(density * PRUNABLE),
        "pruning/density": density,
        "pruning/average_params": active_sum / (step + 1),
        "pruning/effective_flops": 6.0 * TOKENS * active_sum,
        "pruning/min_matrix_density": density / 2,
      }
    train.append(row)
    if step in (20, STEPS - 1):
      held_out.append({"step": float(step), "eval/avg_loss": row["learning/loss"] + 0.05})
  return train, held_out


@pytest.fixture
def specs(tmp_path):
  """Two finished runs' folders with the files that the report reads."""
  made = {}
  for name in TITLES:
    spec = RunSpec(name, TITLES[name], str(tmp_path / name), STEPS, (), "fingerprint")
    (tmp_path / name / "sparsity").mkdir(parents=True)
    train, held_out = rows(name == "sparse")
    with open(spec.metrics_file, "w", encoding="utf-8") as file:
      file.writelines(json.dumps(row) + "\n" for row in sorted(train + held_out, key=lambda row: row["step"]))
    made[name] = spec
  event = {"step": SCHEDULE.end, "matrices": {"decoder/mlp/wi_0/kernel[0]": 0.3, "decoder/query/kernel[1]": 0.1}}
  (tmp_path / "sparse" / "sparsity" / f"event_{SCHEDULE.end:08d}.json").write_text(json.dumps(event))
  return made


def test_figures_of_both_runs(specs):
  results, curves = report.read_results(specs["dense"], specs["sparse"], SCHEDULE)
  dense, sparse = results["dense"], results["sparse"]
  assert dense.final_params == dense.average_params == PRUNABLE
  assert dense.effective_flops == 6.0 * PRUNABLE * TOKENS * STEPS
  assert (dense.density, dense.thinnest_matrix) == (1.0, None)
  assert sparse.final_params == 200
  assert sparse.effective_flops == pytest.approx(6.0 * sparse.average_params * TOKENS * STEPS)
  assert 0.3 < sparse.effective_flops / dense.effective_flops < 0.5
  assert (sparse.thinnest_matrix, sparse.thinnest_density) == ("decoder/query/kernel[1]", pytest.approx(0.1))
  assert sparse.eval_loss == pytest.approx(8.0 - 3.9 + 0.05)
  assert curves["dense"].params[1] == [PRUNABLE] * STEPS
  assert curves["sparse"].params[1][-1] == 200
  assert curves["sparse"].eval_loss[0] == [20.0, 39.0]


def printed(results):
  console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
  report.print_table(console, results, TITLES)
  return console.export_text()


def test_table_shows_every_figure(specs):
  text = printed(report.read_results(specs["dense"], specs["sparse"], SCHEDULE)[0])
  for figure in ("4.150", "1,000", "200", "4.92e+08", "100.0%", "20.0%", "10.0% query[1]"):
    assert figure in text
  assert "collapsed" not in text


def test_a_collapsed_matrix_is_named(specs):
  train, held_out = rows(is_sparse=True)
  train[-1]["pruning/min_matrix_density"] = 0.004
  result = report.sparse_result(train, held_out, {"decoder/query/kernel[1]": 0.004, "decoder/out/kernel[0]": 0.3}, 1.0)
  text = printed({"sparse": result})
  assert "sparse 80 %: decoder/query/kernel[1] has collapsed, 0.40% of its weights are left" in text


def test_picture_is_drawn(specs, tmp_path):
  path = tmp_path / "demo.png"
  report.draw(str(path), report.read_results(specs["dense"], specs["sparse"], SCHEDULE)[1], TITLES)
  assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 20_000


def test_smoothing_keeps_means_and_short_curves():
  steps, values = report.smoothed(([float(t) for t in range(140)], [float(t) for t in range(140)]))
  assert len(values) == 70 and values[0] == 0.5 and steps[-1] == 139.0
  assert report.smoothed(([0.0, 1.0], [5.0, 4.0])) == ([0.0, 1.0], [5.0, 4.0])


def test_progress_figures():
  train, held_out = rows(is_sparse=True)
  assert figures({}, {}) == "starting MaxText" and num_done({}) == 0
  assert figures(train[-1], held_out[-1]) == "loss 4.100, density 0.200, eval 4.150"
  assert figures(rows(is_sparse=False)[0][0], {}) == "loss 8.000, density 1.000"
  assert num_done(train[-1]) == STEPS
