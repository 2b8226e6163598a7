"""Every test runs on eight fake CPU devices, and property tests draw the same examples each time."""

import os
import signal

# Both are read when jax starts.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import hypothesis
import jax
import pytest

# A job in the background begins with Ctrl-C ignored, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, print_blob=False)
hypothesis.settings.load_profile("tests")


@pytest.fixture
def mesh():
  """A 4 x 2 mesh like MaxText's, current while the test runs."""
  axis_types = (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Auto)
  mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=axis_types)
  with jax.set_mesh(mesh):
    yield mesh
