"""Hooks that make the sparsity keys part of every MaxText config and check them before any device is touched.

A config passes through them in this order:

  add_defaults          our defaults go below the root of the YAML chain
  extend_config_class   the class that will hold the values gets our fields
  check_values          the values, with all overrides, are parsed; the schedule is built from them
  keep_one_line         if one of these fails, the user reads one line
"""

from collections.abc import Mapping
import functools
from typing import Any

from maxtext.configs import types
import omegaconf
import pydantic

from maxtext_sparse.config import DEFAULTS, refuse_misspelt, SparsityKeys
from maxtext_sparse.errors import ConfigError
from maxtext_sparse.hooks.registry import Function
from maxtext_sparse.hooks.settings import parse_settings
from maxtext_sparse.maxtext_errors import is_one_line


def add_defaults(load_config: Function) -> Function:
  """`pyconfig._load_config`: merges our defaults below the root of the YAML chain.

  MaxText accepts an environment variable `M_SPARSITY` only if the YAML files mention the key `sparsity`.
  """

  def load_with_defaults(config_name: str) -> Any:
    config = load_config(config_name)
    # The loader calls itself, and so this hook, for each `base_config`. The file without one is the root of the chain.
    if "base_config" in config:
      return config
    return omegaconf.OmegaConf.merge(omegaconf.OmegaConf.create(DEFAULTS), config)

  return load_with_defaults


@functools.cache
def with_sparsity_keys(config_class: type[pydantic.BaseModel]) -> type[pydantic.BaseModel]:
  """A subclass of MaxText's config class that has our fields too; the class itself if it has them already.

  It has them if it went through here before, or in a patched tree. The cache makes equal classes identical.
  """
  if "sparsity" in config_class.model_fields:
    return config_class
  return type(config_class.__name__, (config_class, SparsityKeys), {"__doc__": config_class.__doc__})


def extend_config_class(initialize_pydantic: Function) -> Function:
  """`pyconfig._initialize_pydantic`: every config is built through it, with its class as an argument."""

  def initialize_with_keys(
    argv: list[str] | None = None, config_class: type[pydantic.BaseModel] = types.MaxTextConfig, **kwargs: Any
  ) -> Any:
    return initialize_pydantic(argv, config_class=with_sparsity_keys(config_class), **kwargs)

  return initialize_with_keys


def check_values(prepare_for_pydantic: Function) -> Function:
  """`pyconfig._prepare_for_pydantic`: parses our keys and builds the schedule.

  This is the last call before `jax.distributed` and the devices start, and the first that sees YAML files, command line
  and `M_*` variables merged. The parsed values replace the raw ones, so that MaxText's config holds exactly these.
  """

  def prepare_checked(raw_keys: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
    refuse_misspelt(raw_keys, with_sparsity_keys(types.MaxTextConfig).model_fields)
    prepared: dict[str, Any] = prepare_for_pydantic(raw_keys, **kwargs)
    return prepared | parse_settings(prepared).keys.model_dump()

  return prepare_checked


def keep_one_line(handle_config_exception: Function) -> Function:
  """`pyconfig._handle_config_exception`: lets our errors through, and all where each ends as one line.

  MaxText would print a banner, and leave with a status of its own.
  """

  def handle(e: Exception) -> None:
    if isinstance(e, ConfigError) or is_one_line():
      raise e
    handle_config_exception(e)

  return handle
