"""How far runs are, where their folder cannot be read."""

import types

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.sweeps import state

IN_A_BUCKET = types.SimpleNamespace(run_directory=lambda run: f"gs://bucket/{run}")


class Unreachable:
  """A folder of a bucket behind a network that is down."""

  def __truediv__(self, name):
    return self

  def __str__(self):
    return "gs://bucket/a/checkpoints"

  def iterdir(self):
    raise RuntimeError("Cannot connect to host\n  storage: name not known")


def test_a_bucket_that_cannot_be_read_is_one_line(monkeypatch):
  def fail(directory):
    raise RuntimeError("Cannot connect to host\n  storage: name not known")

  monkeypatch.setattr(state, "read_uploaded_rows", fail)
  with pytest.raises(ConfigError) as error:
    state.latest(IN_A_BUCKET, "a")
  assert str(error.value) == "gs://bucket/a: cannot be read (Cannot connect to host storage: name not known)"
  monkeypatch.setattr(state, "epath_of", lambda path: Unreachable())
  with pytest.raises(ConfigError, match=r"^gs://bucket/a/checkpoints: cannot be read "):
    state.checkpoint_steps(IN_A_BUCKET, "a")
