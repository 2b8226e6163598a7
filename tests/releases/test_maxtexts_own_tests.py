"""MaxText's own unit tests end the same with and without the plugin, test by test.

They call MaxText's functions with namespaces, dataclasses and mocks for a config, which hooks must leave alone. They need
a checkout of the public repository, because a release from PyPI comes without tests:

  git clone https://github.com/AI-Hypercomputer/maxtext
  MAXTEXT_CHECKOUT=maxtext python -m pytest -m release tests/releases/test_maxtexts_own_tests.py -s

Each test file runs against the checkout's own source and against the installed release. A checkout that is older or newer
than the release fails some of its tests there by itself; the plugin must not change which.
"""

from collections import Counter
import os
from pathlib import Path
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests.hooks.harness import environment

CHECKOUT = os.environ.get("MAXTEXT_CHECKOUT", "")

pytestmark = [
  pytest.mark.release,
  pytest.mark.timeout(3600),
  pytest.mark.skipif(not CHECKOUT, reason="MAXTEXT_CHECKOUT is not set to a checkout of the MaxText repository"),
]

# Metric logger, checkpointing, train states, loss masks, optimizers, configs: what the hooks go into.
FILES = (
  "checkpoint_context_test.py",
  "checkpointing_emergency_nnx_test.py",
  "checkpointing_nnx_load_test.py",
  "checkpointing_nnx_missing_param_test.py",
  "checkpointing_nnx_roundtrip_test.py",
  "checkpointing_test.py",
  "gradient_accumulation_nnx_test.py",
  "metric_logger_abort_test.py",
  "optimizers_test.py",
  "pre_train_loss_mask_test.py",
  "pyconfig_test.py",
  "setup_initial_state_nnx_test.py",
  "state_dtypes_test.py",
  "train_nnx_test.py",
  "train_state_nnx_checkpoint_test.py",
  "train_state_nnx_test.py",
  "train_utils_nnx_test.py",
  "train_utils_test.py",
)
RUN = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
# The plugin comes first: test modules bind MaxText's functions when they are imported.
RUN_HOOKED = f"from maxtext_sparse import hooks; hooks.install(); {RUN}"


def outcomes(code: str, source: str, report: Path) -> dict[str, str]:
  """passed, skipped, failure or error of each test, in a process of its own."""
  files = [f"tests/unit/{name}" for name in FILES if (Path(CHECKOUT) / "tests" / "unit" / name).exists()]
  variables = environment(4) | {"PYTHONDONTWRITEBYTECODE": "1"}
  if source == "checkout":
    variables["PYTHONPATH"] = f"{Path(CHECKOUT).absolute() / 'src'}:{variables['PYTHONPATH']}"
  # In the checkout's folder, where `import tests` finds its tests and not ours.
  options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
  done = subprocess.run(
    [sys.executable, "-c", code, *options, *files],
    cwd=CHECKOUT,
    env=variables,
    capture_output=True,
    text=True,
    check=False,
  )
  assert report.exists(), (done.stdout + done.stderr)[-3000:]
  found: dict[str, str] = {}
  for case in ElementTree.parse(report).iter("testcase"):
    ends = [child.tag for child in case if child.tag in ("skipped", "failure", "error")]
    name = f"{case.get('classname')}::{case.get('name')}"
    # A test with subtests has several entries; the worst counts.
    found[name] = max(found.get(name, "passed"), *ends, "passed", key=("passed", "skipped", "failure", "error").index)
  return found


@pytest.mark.parametrize("source", ["checkout", "installed"])
def test_every_test_of_maxtext_ends_the_same_with_and_without_the_plugin(tmp_path, source):
  stock = outcomes(RUN, source, tmp_path / "stock.xml")
  hooked = outcomes(RUN_HOOKED, source, tmp_path / "hooked.xml")
  print(f"{source}: {len(stock)} tests; stock {dict(Counter(stock.values()))}, hooked {dict(Counter(hooked.values()))}")
  assert Counter(stock.values())["passed"] >= 50, "too few tests ran to show anything"
  changed = {name: (stock.get(name), hooked.get(name)) for name in stock | hooked if stock.get(name) != hooked.get(name)}
  assert not changed
