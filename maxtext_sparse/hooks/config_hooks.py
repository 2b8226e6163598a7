"""Hooks that make the sparsity keys part of every MaxText config and check them before any device is touched."""

import functools

from maxtext.configs import types
import omegaconf
import pydantic

from maxtext_sparse.config import ConfigError, DEFAULTS, parse_keys, refuse_misspelt, run_steps, SparsityKeys
from maxtext_sparse.schedule import build_schedule


def add_defaults(load_config):
  """`pyconfig._load_config`: puts our defaults under the root of the YAML chain, where `M_*` variables find them."""

  def load_with_defaults(config_name):
    config = load_config(config_name)
    # The loader recurses through this hook, so the file without a base is the root of the chain.
    if "base_config" in config:
      return config
    return omegaconf.OmegaConf.merge(omegaconf.OmegaConf.create(DEFAULTS), config)

  return load_with_defaults


@functools.cache
def with_sparsity_keys(config_class: type[pydantic.BaseModel]) -> type[pydantic.BaseModel]:
  """A subclass of MaxText's config class that has our fields too."""
  if "sparsity" in config_class.model_fields:  # ours already, or native in a patched tree
    return config_class
  return type(config_class.__name__, (config_class, SparsityKeys), {"__doc__": config_class.__doc__})


def extend_config_class(initialize_pydantic):
  """`pyconfig._initialize_pydantic`: every config is built through it, with its class as an argument."""

  def initialize_with_keys(argv=None, config_class=types.MaxTextConfig, **kwargs):
    return initialize_pydantic(argv, config_class=with_sparsity_keys(config_class), **kwargs)

  return initialize_with_keys


def check_values(prepare_for_pydantic):
  """`pyconfig._prepare_for_pydantic`: the last call before jax.distributed starts, with all overrides merged."""

  def prepare_checked(raw_keys, **kwargs):
    refuse_misspelt(raw_keys, with_sparsity_keys(types.MaxTextConfig).model_fields)
    prepared = prepare_for_pydantic(raw_keys, **kwargs)
    keys = parse_keys(prepared)
    if keys.is_active:
      build_schedule(keys, run_steps(prepared))
    return prepared | keys.model_dump()

  return prepare_checked


def keep_one_line(handle_config_exception):
  """`pyconfig._handle_config_exception`: our one-line errors stay one line instead of a banner or a traceback."""

  def handle(e):
    if isinstance(e, ConfigError):
      raise e
    handle_config_exception(e)

  return handle
