"""Runs a MaxText entry point in this process with the plugin installed."""

from collections.abc import Iterator, Sequence
import contextlib
import importlib
import importlib.util
import os
import tempfile

from maxtext_sparse import hooks
from maxtext_sparse.config_files import dump, merge_configs, STOCK_FOLDER
from maxtext_sparse.errors import ConfigError, one_line_errors


def run_module(module: str, arguments: Sequence[str]) -> None:
  """Imports `module` and calls its `main` as `python -m module` would, hooks installed.

  The module is not run as `__main__`: hooks reach the imported module, not a second copy of it.
  """
  with one_line_errors(), merged_configs(arguments) as merged:
    _locate_assets()
    hooks.install()
    from absl import app

    try:
      main = importlib.import_module(module).main
    except (ImportError, AttributeError) as error:
      raise ConfigError(f"MODULE={module}: not a MaxText entry point ({error})") from error
    app.run(main, argv=[module_path(module), *merged])


def module_path(module: str) -> str:
  """argv[0] of `python -m module`, from which MaxText infers the default config."""
  return importlib.import_module(module).__file__ or module


@contextlib.contextmanager
def merged_configs(arguments: Sequence[str]) -> Iterator[list[str]]:
  """The arguments with several config files replaced by one, merged left to right."""
  is_config = lambda argument: "=" not in argument and not argument.startswith("-")
  configs = [_stock_config(argument) for argument in arguments if is_config(argument)]
  others = [argument for argument in arguments if not is_config(argument)]
  if len(configs) < 2:
    yield [*configs, *others]
    return
  with tempfile.TemporaryDirectory(prefix="maxtext_sparse_") as directory:
    path = os.path.join(directory, "merged.yml")
    with open(path, "w", encoding="utf-8") as file:
      file.write(dump(merge_configs(configs)))
    yield [path, *others]


def _package_folder(name: str) -> str | None:
  """A folder of the MaxText that would be imported, without importing it."""
  spec = importlib.util.find_spec("maxtext")
  locations = spec.submodule_search_locations if spec else None
  folder = os.path.join(locations[0], name) if locations else ""
  return folder if os.path.isdir(folder) else None


def _locate_assets() -> None:
  """An install from PyPI looks for its tokenizers in the layout of a checkout, and would not find them."""
  assets = _package_folder("assets")
  if assets:
    os.environ.setdefault("MAXTEXT_ASSETS_ROOT", assets)


def _stock_config(path: str) -> str:
  """MaxText's own file where `path`, such as `base.yml` or `src/maxtext/configs/base.yml`, is not one here."""
  folder = _package_folder("configs")
  stock = os.path.join(folder or "", path.removeprefix(STOCK_FOLDER))
  return stock if folder and not os.path.isfile(path) and os.path.isfile(stock) else path
