"""Runs a MaxText entry point in this process with the plugin installed."""

from collections.abc import Iterator, Sequence
import contextlib
import importlib
import importlib.util
import os
import tempfile

from maxtext_sparse import hooks
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
      file.write(merge_configs(configs))
    yield [path, *others]


def merge_configs(paths: Sequence[str]) -> str:
  """YAML of several config files, later ones winning; they share the one `base_config` that any of them names.

  Raises:
    ConfigError: a file is missing or not a mapping, or two files name different bases.
  """
  import yaml

  merged: dict = {}
  for path in paths:
    content = yaml.safe_load(_read(path))
    if not isinstance(content, dict):
      raise ConfigError(f"{path}: not a MaxText config, must be a YAML mapping")
    base = _absolute_base(path, content.get("base_config"))
    if base and merged.get("base_config", base) != base:
      raise ConfigError(f"base_config={base}: {path} names another base than the files before it, keep one")
    merged |= content | ({"base_config": base} if base else {})
  merged.setdefault("base_config", "base.yml")
  return yaml.safe_dump(merged, sort_keys=False)


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
  stock = os.path.join(folder or "", path.removeprefix("src/maxtext/configs/"))
  return stock if folder and not os.path.isfile(path) and os.path.isfile(stock) else path


def _absolute_base(path: str, base: str | None) -> str | None:
  """Relative bases are looked up beside the file first and in MaxText's own folder else, as MaxText does."""
  if not base or os.path.isabs(base):
    return base
  beside = os.path.join(os.path.dirname(os.path.abspath(path)), base)
  return beside if os.path.isfile(beside) else base


def _read(path: str) -> str:
  try:
    with open(path, encoding="utf-8") as file:
      return file.read()
  except OSError as error:
    raise ConfigError(f"{path}: cannot read this config file ({error.strerror})") from error
