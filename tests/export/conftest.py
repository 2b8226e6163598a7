"""A random model's checkpoint and its export, shared by the tests that only read them."""

import pytest

from maxtext_sparse.export.write import export_checkpoint
from tests.export.models import save_model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
  return save_model(tmp_path_factory.mktemp("model") / "run")


@pytest.fixture(scope="session")
def exported(tmp_path_factory, checkpoint):
  """A float32 export in three shards."""
  from maxtext_sparse.export.write import ExportOptions

  out = tmp_path_factory.mktemp("exported") / "hf"
  export_checkpoint(str(checkpoint), str(out), [], ExportOptions(shard_bytes=60_000))
  return out
