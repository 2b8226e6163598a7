"""Strictness for tests of our own arithmetic. The tests of the optax wrapper go without: optax promotes dtypes itself."""

import jax
import pytest


@pytest.fixture
def strict_promotion():
  """An implicit promotion, such as int32 to float32, is an error: it would hide a wrong dtype in a key or a count."""
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    yield
