"""The `maxtext-sparse` command. One module per group of commands; each command imports what it needs when it runs."""

import os
import sys
from typing import Annotated

import typer

from maxtext_sparse import __version__
from maxtext_sparse.cli import bench, cluster, export, laws, plan, start, studies, tools
from maxtext_sparse.cli.help import new_group
from maxtext_sparse.cli.streams import printing, require_working_folder
from maxtext_sparse.errors import print_error
from maxtext_sparse.hooks import SUPPORTED_VERSIONS

app = new_group(
  "Pre-trains sparse language models in MaxText by gradual magnitude pruning.",
  add_completion=True,
)

# What commands import when they run -> the command that installs it.
_BROUGHT_BY = {
  **dict.fromkeys(
    ("jax", "jaxlib", "flax", "optax", "orbax", "etils", "maxtext"),
    f"uv pip install 'maxtext[tpu]=={SUPPORTED_VERSIONS[-1]}' --resolution=lowest",
  ),
  **dict.fromkeys(("numpy", "pandas", "matplotlib"), "pip install 'maxtext-sparse[analysis]'"),
  **dict.fromkeys(("ml_dtypes", "tokenizers", "zstandard"), "pip install 'maxtext-sparse[export]'"),
}


def _print_version(is_asked: bool) -> None:
  if is_asked:
    print(f"maxtext-sparse {__version__}")
    raise typer.Exit()


@app.callback()
def common(
  version: Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
  ] = False,
) -> None:
  """Options of the command itself. Its help is the group's."""
  del version


for module in (start, plan, studies, cluster, laws, export, bench, tools):
  module.register(app)


def main() -> None:
  """The console script."""
  # MaxText imports transformers, which tells of packages and models that nobody here asked for.
  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
  try:
    with printing():
      require_working_folder()
      app(prog_name="maxtext-sparse")
  except ModuleNotFoundError as error:
    name = (error.name or "").partition(".")[0]
    if name not in _BROUGHT_BY:
      raise
    print_error(f"{name}: not installed here, needed for this: {_BROUGHT_BY[name]}")
    sys.exit(2)
