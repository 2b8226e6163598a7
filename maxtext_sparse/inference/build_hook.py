"""Puts compiled kernels into the wheel if this machine has a C compiler; hatch calls it.

Without a compiler the wheel fits any machine, and the kernels are compiled at first use.
"""

from pathlib import Path
import subprocess
import sys
import sysconfig
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Hatch loads this file by its path.
sys.path.insert(0, str(Path(__file__).parents[2]))
from maxtext_sparse.inference import library


class KernelsHook(BuildHookInterface):  # type: ignore[misc]
  """Compiles kernels.c for wheels; an editable install compiles at first use, so that edits count."""

  def initialize(self, version: str, build_data: dict[str, Any]) -> None:
    if self.target_name != "wheel" or version == "editable":
      return
    folder = Path(tempfile.mkdtemp())
    try:
      library.build(folder / library.file_name())
    except (OSError, subprocess.CalledProcessError) as error:
      self.app.display_warning(f"no compiled kernels in this wheel, they are compiled at first use ({error})")
      return
    build_data["force_include"][str(folder / library.file_name())] = f"maxtext_sparse/inference/{library.file_name()}"
    # Any Python can load them, on this system and processor only.
    build_data["pure_python"] = False
    build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
