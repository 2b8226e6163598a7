"""Fixtures: one nursery for the whole session, real text, and the undisturbed run that all others must equal."""

import pytest

from tests.faults.harness import LONG, Nursery, SAVING
from tests.hooks.conftest import out, text_data

__all__ = ["out", "text_data"]


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
  nursery = Nursery(tmp_path_factory.mktemp("nursery"))
  yield nursery
  nursery.close()


@pytest.fixture(scope="session")
def settings(text_data):
  """A run of 60 steps on text, 80 % sparse in 15 events, saved every 4 steps."""
  return text_data | SAVING | LONG


@pytest.fixture(scope="session")
def whole(nursery, out, settings):
  """The undisturbed run."""
  return nursery.train(out, "whole", **settings)
