"""TPU types."""

from pathlib import Path
import subprocess

import pytest

from maxtext_sparse.cluster.tpu import check_tpu_type, family_of, tpu_types
from maxtext_sparse.errors import ConfigError

# Type, chips and accelerator of each TPU that the real xpk knows.
_TABLE = """
from xpk.core.system_characteristics import AcceleratorType, UserFacingNameToSystemCharacteristics as table
for name, system in table.items():
  if system.accelerator_type == AcceleratorType.TPU:
    print(name, system.vms_per_slice * system.chips_per_vm, system.gke_accelerator)
"""


def test_the_types_are_those_of_xpk(xpk_path):
  python = Path(xpk_path).with_name("python")
  done = subprocess.run([python, "-c", _TABLE], capture_output=True, text=True, check=True)
  theirs = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
  ours = {name: [str(chips), family_of(name).accelerator] for name, chips in tpu_types().items()}
  assert ours == theirs


@pytest.mark.parametrize(
  "wrong, right",
  [
    ("v5e-16", "v5litepod-16"),
    ("v5litepod16", "v5litepod-16"),
    ("v5p-100", "v5p-128"),
    ("V6E-8", "v6e-8"),
    ("v6-256", "v6e-256"),
    ("v5p-4x4", "v5p-2x2x4"),
    ("v6e-4x5", "v6e-4x4"),
    ("v5p-0", "v5p-8"),
    ("trillium-4", "v6e-4"),
    ("", "v5litepod-8"),
  ],
)
def test_an_unknown_type_is_refused_with_the_nearest_right_one(wrong, right):
  with pytest.raises(ConfigError, match=f"did you mean {right}\\?"):
    check_tpu_type(wrong)
