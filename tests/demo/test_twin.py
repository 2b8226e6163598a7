"""The twin that the demo trains: found without MaxText, of the sparse run's average size."""

import pytest

from maxtext_sparse.demo.training import recipe_file, sparse_schedule
from maxtext_sparse.demo.twin import changed, find_twin
from maxtext_sparse.plan.models import load_model


def test_the_neighbours_enclose_the_average_of_the_default_run():
  shape, twin = find_twin(recipe_file(), sparse_schedule(500, 0.4), 500, 0.4)
  below, above = twin.neighbours
  assert (shape.prunable, below.num_prunable, above.num_prunable) == (20_000, 14_080, 16_920)
  mean = below.weight * below.num_prunable + above.weight * above.num_prunable
  assert mean == pytest.approx(twin.average_params) == pytest.approx(0.766 * 20_000, rel=0.01)


def test_the_sizes_are_those_of_maxtexts_own_models():
  shape, twin = find_twin(recipe_file(), sparse_schedule(500, 0.4), 500, 0.4)
  # The recipe leaves the files of its text to the demo.
  recipe = [recipe_file(), "dataset_type=synthetic"]
  assert load_model(recipe).num_prunable == shape.prunable
  for neighbour in twin.neighbours:
    model = load_model([*recipe, *neighbour.overrides])
    assert model.num_prunable == neighbour.num_prunable
    assert model.total == changed(shape, neighbour.overrides).total
