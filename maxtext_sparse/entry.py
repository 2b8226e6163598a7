"""Runs a MaxText entry point in this process with the plugin installed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import importlib
import importlib.util
import os
from pathlib import Path
import re
import tempfile
from typing import Any

from maxtext_sparse import hooks
from maxtext_sparse.arguments import check_arguments, split_words
from maxtext_sparse.config_files import (
  dump,
  maxtext_folder,
  merge_configs,
  read_config,
  stock_file,
  STOCK_FOLDER,
  stock_name,
)
from maxtext_sparse.errors import ConfigError, did_you_mean, one_line_errors
from maxtext_sparse.maxtext_errors import in_one_line
from maxtext_sparse.run_values import check_places

_EXAMPLE = "maxtext.trainers.pre_train.train"


def run_module(
  module: str,
  arguments: Sequence[str],
  install: Callable[[], None] = hooks.install,
  has_traceback: bool = True,
  around: Callable[[Mapping[str, Any]], contextlib.AbstractContextManager[None]] | None = None,
) -> None:
  """Hooks MaxText, imports `module` and calls its `main` as `python -m module` would.

  The module does not run as `__main__`, because that would be a second copy of it, which hooks do not reach. The
  package's own errors end the process with one line.

  Args:
    module: a MaxText entry point, such as `maxtext.trainers.pre_train.train`.
    arguments: what follows it on the command line, except that there may be several config files.
    install: hooks MaxText.
    has_traceback: whether MaxText's own errors end with a traceback, which belongs in the log of a pod; otherwise they
      are one line too.
    around: makes a context for the run from the keys that it sets itself, for example a bar in the terminal.
  """
  with one_line_errors(), in_one_line(has_traceback):
    _check_module(module)
    values: dict[str, Any] = {}
    with merged_configs(arguments, values) as merged, around(values) if around else contextlib.nullcontext():
      _locate_assets()
      install()
      from absl import app

      try:
        main = importlib.import_module(module).main
      except (ImportError, AttributeError) as error:
        raise ConfigError(f"MODULE={module}: {_why_not(error)}") from error
      app.run(main, argv=[module_path(module), *merged])


def _check_module(name: str) -> None:
  """Checks that an entry point is there, without importing it, which takes half a minute.

  Raises:
    ConfigError: it is not, or it is a folder of modules, or it has no `main`.
  """
  root, *inner = name.split(".")
  spec = importlib.util.find_spec(root) if root.isidentifier() else None
  if spec is None and root == "maxtext":
    return  # the hooks say that MaxText is not installed, and how to install it
  if spec is None:
    dotted = name.removesuffix(".py").strip("./").replace("/", ".")
    example = dotted if "/" in name and dotted.startswith("maxtext.") else _EXAMPLE
    raise ConfigError(f"MODULE={name}: no such module, give a dotted name such as {example}")
  path = Path((spec.submodule_search_locations or [spec.origin or ""])[0])
  for part in inner:
    names = [entry.stem for entry in path.iterdir()] if path.is_dir() else []
    if part not in names:
      raise ConfigError(f"MODULE={name}: there is no {part} in {path.name}{did_you_mean(part, names)}")
    path = path / part if (path / part).is_dir() else path / f"{part}.py"
  if path.is_dir():
    raise ConfigError(f"MODULE={name}: is a folder of modules, give one of them, such as {_EXAMPLE}")
  if path.suffix == ".py" and not re.search(r"\bmain\b", path.read_text(encoding="utf-8")):
    raise ConfigError(f"MODULE={name}: has no function main, give an entry point such as {_EXAMPLE}")


def _why_not(error: ImportError | AttributeError) -> str:
  # Several of MaxText's trainers need packages that its pre-training does without, such as tunix.
  if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("maxtext."):
    return f"needs the package {error.name.partition('.')[0]}, which is not installed"
  return f"not a MaxText entry point ({error})"


def module_path(module: str) -> str:
  """The module's file, which `python -m module` passes as argv[0]. MaxText infers the default config from it."""
  return importlib.import_module(module).__file__ or module


@contextlib.contextmanager
def merged_configs(arguments: Sequence[str], to_train: dict[str, Any] | None = None) -> Iterator[list[str]]:
  """The arguments, checked, with one config file in place of several; of two values for a key the later file's counts.

  MaxText takes one file. It would take a file without `base_config` for the whole config, and it would not read a file
  whose name does not end in .yml. Such a file is written anew too, based on MaxText's base.yml, so that one file behaves
  as two do. The merged file exists as long as the with block runs.

  Args:
    arguments: the arguments of a run.
    to_train: for a run that writes its output here; receives the keys that it sets itself.

  Raises:
    ConfigError: an argument cannot work.
  """
  values = check_arguments(arguments)
  if to_train is not None:
    check_places(values)
    to_train.update(values)
  given, _ = split_words(arguments)
  others = [argument for argument in arguments if argument not in given]
  configs = [_stock_config(argument) for argument in given]
  if not configs or (len(configs) == 1 and _is_whole(configs[0])):
    yield [*configs, *others]
    return
  with tempfile.TemporaryDirectory(prefix="maxtext_sparse_") as directory:
    path = os.path.join(directory, "merged.yml")
    with open(path, "w", encoding="utf-8") as file:
      file.write(dump(merge_configs(configs)))
    yield [path, *others]


def _locate_assets() -> None:
  """Tells MaxText where its tokenizers are: installed from PyPI, it looks for them as if it were a checkout."""
  assets = maxtext_folder("assets")
  if assets:
    os.environ.setdefault("MAXTEXT_ASSETS_ROOT", assets)


def _stock_config(path: str) -> str:
  """`path`, or MaxText's own file of that name if there is no such file here.

  `base.yml` and `src/maxtext/configs/base.yml` both name MaxText's own.
  """
  return path if os.path.exists(path) else stock_file(path.removeprefix(STOCK_FOLDER)) or path


def _is_whole(path: str) -> bool:
  """Whether MaxText reads this one config file as it is."""
  return stock_name(path) is not None or (path.endswith(".yml") and "base_config" in read_config(path))
