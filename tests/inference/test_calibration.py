"""The layout is chosen from measured times; what is measured once is kept."""

import pytest

from maxtext_sparse.inference import calibration, library
from maxtext_sparse.inference.calibration import calibrate, choose
from maxtext_sparse.inference.matrix import DTYPES

# Compressed rows win below a density of 0.1, where they take as long as the bitmask; dense wins above 0.8.
TABLE = {
  "bf16": {
    "bitmask": [[0.0, 1.0], [0.2, 1.0], [1.0, 2.0]],
    "csr": [[0.0, 0.0], [0.1, 1.0], [0.2, 2.0]],
    "dense": [[1.0, 1.75]],
  }
}


@pytest.mark.parametrize(
  "density, layout", [(0.01, "csr"), (0.09, "csr"), (0.11, "bitmask"), (0.7, "bitmask"), (0.9, "dense")]
)
def test_the_fastest_layout_at_a_density_is_chosen(density, layout):
  assert choose(TABLE, "bf16", density) == layout


def test_a_matrix_that_csr_cannot_hold_stays_a_bitmask():
  assert choose(TABLE, "bf16", 0.01, may_be_csr=False) == "bitmask"


def test_a_machine_is_measured_once_and_again_if_asked_or_if_the_file_is_broken(tmp_path, monkeypatch):
  monkeypatch.setenv(library.CACHE_VARIABLE, str(tmp_path))
  monkeypatch.setattr(calibration, "_ROWS", 64)
  monkeypatch.setattr(calibration, "_COLS", 128)
  table = calibrate()
  assert set(table) == set(DTYPES)
  for layouts in table.values():
    for points in layouts.values():
      assert all(nanoseconds > 0 for _, nanoseconds in points)
      assert [density for density, _ in points] == sorted(density for density, _ in points)
  assert calibrate() == table
  (path,) = tmp_path.glob("calibration-*.json")
  written = path.read_text()
  assert calibrate(force=True) != table
  assert path.read_text() != written
  path.write_text(written[:50])
  calibration._cached.cache_clear()
  assert set(calibrate()) == set(DTYPES)
