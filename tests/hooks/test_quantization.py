"""What reaches a quantized kernel: MaxText quantizes weights through qwix."""

import jax.numpy as jnp
import numpy as np
import pytest
import qwix


@pytest.mark.parametrize("qtype", ["int8", "float8_e4m3fn"])
def test_pruned_weights_stay_zero(qtype):
  """Scales belong to outputs and have no offset, so that zero is zero, and few live weights are rounded to it."""
  rng = np.random.default_rng(0)
  pruned = rng.normal(size=(64, 32)) * (rng.random((64, 32)) < 0.2)
  quantized = qwix.quantize(jnp.asarray(pruned, jnp.float32), getattr(jnp, qtype), channelwise_axes=(1,))
  reaches = np.asarray(quantized.qvalue.astype(jnp.float32))
  assert np.all(reaches[pruned == 0] == 0)
  assert np.count_nonzero(reaches) > 0.9 * np.count_nonzero(pruned)
