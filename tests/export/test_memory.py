"""The memory that an export takes above what an export of nothing takes, against the parameters of the checkpoint."""

import dataclasses
import math
import subprocess
import sys

import pytest

from maxtext_sparse.export.llama import LlamaShape, maxtext_shapes
from tests.export.models import save_model, SHAPE

pytestmark = pytest.mark.slow

# As flat as the paper's models: 24 layers in one array, which is the largest piece that has to be in memory.
DEEP = LlamaShape(
  num_layers=24, emb_dim=512, mlp_dim=1408, num_heads=8, num_kv_heads=8, head_dim=64, vocab_size=32_000, max_length=64
)
# Of the float32 parameters of the checkpoint: 0.46 to 0.74 was measured.
BOUND = 0.9
EXPORT = """
import sys
from maxtext_sparse.export.write import export_checkpoint, ExportOptions
export_checkpoint(sys.argv[1], sys.argv[2], [], ExportOptions(dtype=sys.argv[3], weights_format=sys.argv[4]))
# The peak of getrusage would be that of the process that started this one, if it is larger.
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(1024 * int(line.split()[1]))
"""


def peak_bytes(checkpoint, out, dtype, weights_format):
  command = [sys.executable, "-c", EXPORT, checkpoint, out, dtype, weights_format]
  return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
  """A model of 110 million parameters, and a tiny one of the same kind for what Python and its packages take."""
  folder = tmp_path_factory.mktemp("memory")
  tiny = dataclasses.replace(SHAPE, num_layers=DEEP.num_layers)
  return save_model(folder / "deep", DEEP), save_model(folder / "tiny", tiny)


@pytest.mark.parametrize("weights_format", ["dense", "bitmask"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peak_is_smaller_than_the_parameters_of_the_checkpoint(tmp_path, checkpoints, dtype, weights_format):
  deep, tiny = checkpoints
  num_parameters = sum(math.prod(shape) for shape in maxtext_shapes(DEEP, True).values())
  base = peak_bytes(tiny, tmp_path / "tiny", dtype, weights_format)
  peak = peak_bytes(deep, tmp_path / "deep", dtype, weights_format)
  share = (peak - base) / (4 * num_parameters)
  print(f"{dtype} {weights_format}: {base / 1e6:.0f} MB + {share:.2f} of the parameters")
  assert 0 < share <= BOUND
