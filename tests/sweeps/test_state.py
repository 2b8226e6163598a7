"""How far runs are, where their folder cannot be read."""

import types

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.sweeps import state

IN_A_BUCKET = types.SimpleNamespace(
  output_path="gs://bucket", listing=None, run_directory=lambda run: f"gs://bucket/{run}"
)


def test_a_bucket_that_cannot_be_read_is_one_line(monkeypatch):
  def fail(url):
    raise RuntimeError("Cannot connect to host\n  storage: name not known")

  monkeypatch.setattr(state, "Listing", fail)
  for look in (state.latest, state.checkpoint_steps):
    with pytest.raises(ConfigError) as error:
      look(IN_A_BUCKET, "a")
    assert str(error.value) == "gs://bucket/a: cannot be read (Cannot connect to host storage: name not known)"
  with pytest.raises(ConfigError, match=r"^gs://bucket: cannot be read "):
    state.as_of_now(IN_A_BUCKET)
