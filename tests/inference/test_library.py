"""The kernels are built once and cached; without a compiler numpy takes over and says so."""

import os
from pathlib import Path
import shutil
import subprocess
import sys
import zipfile

import pytest

from maxtext_sparse.errors import ConfigError
from maxtext_sparse.inference import library
from tests.inference.cases import supported_isas

REPO = Path(__file__).parents[2]
MULTIPLY = """
import numpy as np
from maxtext_sparse.inference import library, PackedMatrix
weights = np.array([[0, 2, 0], [1, 0, -1]], np.float32)
print(library.isa(), PackedMatrix.pack(weights, "bf16").multiply(np.array([[1, 10, 100]], np.float32)).tolist())
"""


def run(code, **variables):
  return subprocess.run(
    [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False
  )


def test_the_kernels_are_compiled_at_first_use_and_cached(tmp_path):
  cache = tmp_path / "cache"
  assert run(MULTIPLY, MAXTEXT_SPARSE_CACHE=str(cache)).stdout.endswith("[[20.0, -99.0]]\n")
  assert [path.name for path in cache.iterdir()] == [library.file_name()]
  # The second process finds them, although it has no compiler.
  second = run(MULTIPLY, MAXTEXT_SPARSE_CACHE=str(cache), CC="/nonexistent")
  assert second.stdout.endswith("[[20.0, -99.0]]\n") and not second.stderr


@pytest.mark.parametrize("compiler", ["/nonexistent", "false"])
def test_without_a_compiler_numpy_multiplies_and_one_line_says_so(tmp_path, compiler):
  done = run(MULTIPLY, MAXTEXT_SPARSE_CACHE=str(tmp_path), CC=compiler)
  assert done.stdout == "numpy [[20.0, -99.0]]\n"
  assert done.stderr.startswith("maxtext-sparse: no compiled kernels (") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("isa", supported_isas())
def test_an_environment_variable_chooses_the_instruction_set(isa):
  assert run(MULTIPLY, MAXTEXT_SPARSE_ISA=isa).stdout.startswith(f"{isa} ")


def test_an_instruction_set_that_is_not_here_is_refused():
  missing = next(isa for isa in library.ISAS if isa not in supported_isas())
  for name in (missing, "sse9"):
    with pytest.raises(ConfigError, match=f"MAXTEXT_SPARSE_ISA={name}"):
      library.use_isa(name)


def test_threads_run_on_the_cores_that_were_asked_for():
  import numpy as np

  from maxtext_sparse.inference.matrix import PackedMatrix

  allowed = sorted(os.sched_getaffinity(0))
  library.set_threads(2, cpus=[allowed[0], allowed[-1]])
  matrix = PackedMatrix.pack(np.ones((512, 512), np.float32))
  for _ in range(3):
    matrix.multiply(np.ones((1, 512), np.float32))
  assert library.thread_cpus()[1] == allowed[-1]


@pytest.mark.parametrize("num_threads, cpus", [(0, None), (3, [0]), (1000, None)])
def test_more_threads_than_cores_are_refused(num_threads, cpus):
  with pytest.raises(ConfigError, match=f"num_threads={num_threads}: must be at least 1"):
    library.set_threads(num_threads, cpus)


def test_a_forked_child_multiplies_with_threads_of_its_own():
  code = """
import os
import numpy as np
from maxtext_sparse.inference import library, PackedMatrix
library.set_threads(2, cpus=[0, 0])
matrix, x = PackedMatrix.pack(np.ones((64, 64), np.float32)), np.ones((1, 64), np.float32)
matrix.multiply(x)
child = os.fork()
if child == 0:
  os._exit(0 if matrix.multiply(x)[0, 0] == 64 else 1)
print(os.waitpid(child, 0)[1])
"""
  assert run(code).stdout == "0\n"


@pytest.mark.slow
def test_the_address_and_undefined_behaviour_sanitizers_find_nothing(tmp_path):
  library.build(tmp_path / library.file_name(), ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover"])
  preload = subprocess.run(
    ["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
  ).stdout.strip()
  variables = {"MAXTEXT_SPARSE_CACHE": str(tmp_path), "LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0"}
  command = [sys.executable, "-m", "tests.inference.cases"]
  done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=800, check=False)
  assert done.returncode == 0 and "checked" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("compiler, has_kernels", [("cc", True), ("/nonexistent", False)])
def test_a_wheel_has_the_kernels_if_a_compiler_is_there(tmp_path, compiler, has_kernels):
  command = [sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(REPO)]
  done = subprocess.run(
    command, env=os.environ | {"CC": compiler}, capture_output=True, text=True, timeout=300, check=False
  )
  assert done.returncode == 0, done.stderr
  (wheel,) = tmp_path.glob("*.whl")
  names = zipfile.ZipFile(wheel).namelist()
  assert (f"maxtext_sparse/inference/{library.file_name()}" in names) == has_kernels
  assert "maxtext_sparse/inference/kernels.c" in names
  assert wheel.name.endswith("-py3-none-any.whl") != has_kernels


@pytest.mark.slow
@pytest.mark.parametrize(
  "compiler, flag, runner",
  [("cc", "-fsanitize=address,undefined", []), ("aarch64-linux-gnu-gcc", "-static", ["qemu-aarch64"])],
)
def test_every_instruction_set_agrees_with_the_portable_loops(tmp_path, compiler, flag, runner):
  """The second case emulates an ARM processor; Debian's gcc-aarch64-linux-gnu and qemu-user bring what it needs."""
  missing = [tool for tool in (compiler, *runner) if not shutil.which(tool)]
  if missing:
    pytest.skip(f"{missing[0]} is not installed")
  program = tmp_path / "compare"
  source = Path(__file__).with_name("compare_isas.c")
  flags = ["-O2", "-std=gnu11", flag, "-pthread", f"-I{library.SOURCE.parent}"]
  subprocess.run([compiler, *flags, source, "-o", program, "-lm"], check=True)
  done = subprocess.run([*runner, program], capture_output=True, text=True, timeout=600, check=False)
  assert done.returncode == 0 and "products agree" in done.stdout, done.stdout + done.stderr
