"""The compiled kernels: found beside this file or in the cache, else built with the system's C compiler, else absent."""

from collections.abc import Sequence
import ctypes
import functools
import hashlib
import os
from pathlib import Path
import platform
import shlex
import subprocess
import sys
import tempfile

from maxtext_sparse.errors import ConfigError

SOURCE = Path(__file__).with_name("kernels.c")
ISAS = ("portable", "avx2", "avx512", "neon")
# Forces an instruction set: a name in `ISAS`. By default the fastest that this processor has.
ISA_VARIABLE = "MAXTEXT_SPARSE_ISA"
# Folder for compiled kernels and for what `calibrate` measured.
CACHE_VARIABLE = "MAXTEXT_SPARSE_CACHE"

_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-pthread")


class MatrixStruct(ctypes.Structure):
  """`mxs_matrix` of kernels.c."""

  _fields_ = [
    ("layout", ctypes.c_int32),
    ("dtype", ctypes.c_int32),
    ("rows", ctypes.c_int64),
    ("cols", ctypes.c_int64),
    ("values", ctypes.c_void_p),
    ("bitmask", ctypes.c_void_p),
    ("columns", ctypes.c_void_p),
    ("row_offsets", ctypes.c_void_p),
    ("scales", ctypes.c_void_p),
  ]


def cache_folder() -> Path:
  """Where kernels and measurements are kept; made if missing."""
  chosen = os.environ.get(CACHE_VARIABLE)
  base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
  folder = Path(chosen or os.path.join(base, "maxtext_sparse"))
  folder.mkdir(parents=True, exist_ok=True)
  return folder


def file_name() -> str:
  """Name of the library that fits this source and this kind of processor, so that an old one is never loaded."""
  digest = hashlib.sha256(SOURCE.read_bytes() + " ".join((*_FLAGS, platform.machine())).encode())
  return f"kernels-{platform.system().lower()}-{platform.machine()}-{digest.hexdigest()[:12]}.so"


def build(path: Path, flags: Sequence[str] = ()) -> None:
  """Compiles the kernels to `path`; a reader of `path` finds the whole library or none.

  Args:
    path: the library.
    flags: more flags for the compiler, which is `CC` or `cc`.

  Raises:
    OSError: there is no compiler, or the folder cannot be written.
    subprocess.CalledProcessError: the compiler refuses the source; its messages are in `stderr`.
  """
  compiler = shlex.split(os.environ.get("CC") or "cc")
  with tempfile.TemporaryDirectory(dir=path.parent) as folder:
    aside = Path(folder) / path.name
    command = [*compiler, *_FLAGS, *flags, str(SOURCE), "-o", str(aside), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    os.replace(aside, path)


@functools.cache
def kernels() -> ctypes.CDLL | None:
  """The library, ready to call; None if there is none and none can be built, which is said once in one line.

  Raises:
    ConfigError: `MAXTEXT_SPARSE_ISA` names no instruction set of this processor.
  """
  try:
    library = _declared(ctypes.CDLL(str(_find_or_build())))
  except (OSError, subprocess.CalledProcessError) as error:
    told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    reason = told[0] if told else "the compiler failed"
    line = f"no compiled kernels ({reason}): numpy expands the weights, which is slow; install gcc or set CC"
    print(f"maxtext-sparse: {line}", file=sys.stderr)
    return None
  wanted = os.environ.get(ISA_VARIABLE)
  if wanted:
    _use_isa(library, wanted)
  return library


def isa() -> str:
  """The instruction set in use; 'numpy' without kernels."""
  library = kernels()
  return ISAS[library.mxs_isa()] if library else "numpy"


def use_isa(name: str) -> None:
  """Switches to an instruction set in `ISAS`.

  Raises:
    ConfigError: this processor does not have it.
  """
  library = kernels()
  if library:
    _use_isa(library, name)


def set_threads(num_threads: int, cpus: Sequence[int] | None = None, pin_caller: bool = False) -> None:
  """Sets how many threads multiply, the caller's included.

  Args:
    num_threads: at least 1.
    cpus: the core of each thread, the caller's first. By default the cores that this process may use, in order.
    pin_caller: whether the calling thread is pinned too, to `cpus[0]`; threads that it starts later inherit that.

  Raises:
    ConfigError: too few cores are named, or the system refuses the threads or the pinning.
  """
  chosen = list(allowed_cpus() if cpus is None else cpus)
  if not 1 <= num_threads <= len(chosen):
    raise ConfigError(f"num_threads={num_threads}: must be at least 1 and at most the {len(chosen)} cores {chosen}")
  library = kernels()
  if library is None:
    return
  started = library.mxs_set_threads(num_threads, (ctypes.c_int * num_threads)(*chosen[:num_threads]), int(pin_caller))
  if started != num_threads:
    raise ConfigError(f"num_threads={num_threads}: the system refused to start or to pin them on cores {chosen}")


def allowed_cpus() -> list[int]:
  """The cores that this thread may run on."""
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def thread_cpus() -> list[int]:
  """The core that each thread ran on in the last multiplication, -1 where unknown or where it had nothing to do."""
  library = kernels()
  if library is None:
    return []
  seen = (ctypes.c_int * 256)()
  return list(seen[: library.mxs_thread_cpus(seen)])


def _find_or_build() -> Path:
  name = file_name()
  prebuilt = SOURCE.with_name(name)
  if prebuilt.exists():
    return prebuilt
  cached = cache_folder() / name
  if not cached.exists():
    build(cached)
  return cached


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
  struct, pointer, length = ctypes.POINTER(MatrixStruct), ctypes.c_void_p, ctypes.c_int64
  library.mxs_multiply.argtypes = [struct, pointer, length, pointer]
  library.mxs_expand.argtypes = [struct, length, length, pointer, ctypes.c_int]
  library.mxs_columns.argtypes = [struct, pointer]
  library.mxs_set_threads.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.c_int]
  library.mxs_thread_cpus.argtypes = [ctypes.POINTER(ctypes.c_int)]
  library.mxs_use_isa.argtypes = [ctypes.c_int]
  library.mxs_expand.restype = library.mxs_columns.restype = None
  return library


def _use_isa(library: ctypes.CDLL, name: str) -> None:
  if name not in ISAS:
    raise ConfigError(f"{ISA_VARIABLE}={name}: must be {', '.join(ISAS)}")
  if library.mxs_use_isa(ISAS.index(name)):
    raise ConfigError(f"{ISA_VARIABLE}={name}: this processor does not have it; leave it out for the fastest")
