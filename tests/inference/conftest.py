"""Each test begins and ends with the fastest instruction set and one thread."""

import pytest

from maxtext_sparse.inference import library
from tests.inference.cases import supported_isas


@pytest.fixture(autouse=True)
def default_kernels():
  fastest = next(isa for isa in ("avx512", "avx2", "neon", "portable") if isa in supported_isas())
  library.use_isa(fastest)
  yield
  library.use_isa(fastest)
  library.set_threads(1)
