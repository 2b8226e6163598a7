"""Runs a MaxText entry point in this process with the plugin installed."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import importlib
import importlib.util
import os
import tempfile

from maxtext_sparse import hooks
from maxtext_sparse.config_files import dump, merge_configs, STOCK_FOLDER
from maxtext_sparse.errors import ConfigError, one_line_errors


def run_module(module: str, arguments: Sequence[str], install: Callable[[], None] = hooks.install) -> None:
  """Hooks MaxText, imports `module` and calls its `main` as `python -m module` would.

  The module does not run as `__main__`, because that would be a second copy of it, which hooks do not reach. The
  package's own errors end the process with one line.

  Args:
    module: a MaxText entry point, such as `maxtext.trainers.pre_train.train`.
    arguments: what follows it on the command line, except that there may be several config files.
    install: hooks MaxText.
  """
  with one_line_errors(), merged_configs(arguments) as merged:
    _locate_assets()
    install()
    from absl import app

    try:
      main = importlib.import_module(module).main
    except (ImportError, AttributeError) as error:
      raise ConfigError(f"MODULE={module}: not a MaxText entry point ({error})") from error
    app.run(main, argv=[module_path(module), *merged])


def module_path(module: str) -> str:
  """The module's file, which `python -m module` passes as argv[0]. MaxText infers the default config from it."""
  return importlib.import_module(module).__file__ or module


@contextlib.contextmanager
def merged_configs(arguments: Sequence[str]) -> Iterator[list[str]]:
  """The arguments with one config file in place of several; of two values for a key the later file's counts.

  MaxText takes one file. The merged one exists as long as the with block runs.
  """
  configs = [_stock_config(argument) for argument in arguments if _is_config(argument)]
  others = [argument for argument in arguments if not _is_config(argument)]
  if len(configs) < 2:
    yield [*configs, *others]
    return
  with tempfile.TemporaryDirectory(prefix="maxtext_sparse_") as directory:
    path = os.path.join(directory, "merged.yml")
    with open(path, "w", encoding="utf-8") as file:
      file.write(dump(merge_configs(configs)))
    yield [path, *others]


def _is_config(argument: str) -> bool:
  return "=" not in argument and not argument.startswith("-")


def _package_folder(name: str) -> str | None:
  """A folder inside the MaxText package that would be imported; None if there is none. Imports nothing."""
  spec = importlib.util.find_spec("maxtext")
  locations = spec.submodule_search_locations if spec else None
  folder = os.path.join(locations[0], name) if locations else ""
  return folder if os.path.isdir(folder) else None


def _locate_assets() -> None:
  """Tells MaxText where its tokenizers are: installed from PyPI, it looks for them as if it were a checkout."""
  assets = _package_folder("assets")
  if assets:
    os.environ.setdefault("MAXTEXT_ASSETS_ROOT", assets)


def _stock_config(path: str) -> str:
  """`path`, or MaxText's own file of that name if there is no such file here.

  `base.yml` and `src/maxtext/configs/base.yml` both name MaxText's own.
  """
  folder = _package_folder("configs")
  stock = os.path.join(folder or "", path.removeprefix(STOCK_FOLDER))
  return stock if folder and not os.path.isfile(path) and os.path.isfile(stock) else path
