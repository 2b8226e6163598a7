"""Which MaxText is accepted, and what importing and installing the plugin does."""

import subprocess
import sys

import pytest

from maxtext_sparse import hooks
from tests.hooks.harness import environment

pytestmark = pytest.mark.release


def test_the_context_manager_restores_after_an_exception():
  table = hooks.fitting_hooks(hooks.maxtext_version())
  originals = [hook.resolve()[2] for hook in table]
  with pytest.raises(KeyError), hooks.installed():
    raise KeyError
  assert [hook.resolve()[2] for hook in table] == originals


def test_importing_the_package_hooks_nothing():
  code = (
    "import maxtext_sparse, maxtext_sparse.hooks.table as t\n"
    "assert not any(hasattr(h.resolve()[2], '_maxtext_sparse_hook') for h in t.COMMON)"
  )
  subprocess.run([sys.executable, "-c", code], env=environment(), check=True, capture_output=True)


def test_an_unsupported_maxtext_is_refused_with_its_version_and_what_to_do(tmp_path):
  # A real distribution record that comes first on the path.
  record = tmp_path / "maxtext-9.9.9.dist-info"
  record.mkdir()
  (record / "METADATA").write_text("Metadata-Version: 2.1\nName: maxtext\nVersion: 9.9.9\n")
  variables = environment()
  variables["PYTHONPATH"] = f"{tmp_path}:{variables['PYTHONPATH']}"
  command = [sys.executable, "-m", "maxtext_sparse", "train", "sparsity=0.5"]
  done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  line = done.stderr.splitlines()[-1]
  assert line.startswith("maxtext-sparse: error: maxtext==9.9.9: not supported, install one of 0.2.3, 0.2.4, 0.2.5")


def test_core_and_launcher_import_nothing_heavy():
  code = (
    "import sys, maxtext_sparse.pruning.transform, maxtext_sparse.hooks.monitor, maxtext_sparse.cli\n"
    "heavy = {'pandas', 'matplotlib', 'scipy', 'maxtext', 'tensorflow', 'transformers'} & set(sys.modules)\n"
    "assert not heavy, heavy"
  )
  done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
