"""Checks `CONFIG [CONFIG ...] [key=value ...]` before MaxText sees it, without importing jax.

Every command that takes such arguments calls `check_arguments` first, so that all of them refuse the same mistakes with
the same line: config files that cannot be read, unknown keys, keys given twice, `M_*` variables that MaxText would
ignore or that contradict the command line, and values that cannot work (`run_values.py`).
"""

from collections.abc import Mapping, Sequence
import functools
import os
import re
from typing import Any

from maxtext_sparse.config import KEYS
from maxtext_sparse.config_files import is_stock, maxtext_folder, near_file, parse_yaml, read_local_files, STOCK
from maxtext_sparse.errors import ConfigError, did_you_mean, nearest
from maxtext_sparse.run_values import check_values, given_values

# MaxText reads the key `steps` from the environment variable M_STEPS.
_PREFIX = "M_"
_KEY = re.compile(r"[A-Za-z_][\w.\[\]-]*", re.ASCII)
# Without MaxText, a key that is not ours is refused only if it looks this much like one of ours. MaxText's own
# rampup_end_step is 0.81 like gmp_end_step.
_ALMOST_SURELY = 0.87
# What editors and web pages make of hyphens.
_LONG_DASHES = "\u2010\u2012\u2013\u2014\u2212"
# The most characters of a user's text that a message repeats.
_LONGEST = 80


def check_arguments(
  words: Sequence[str], environment: Mapping[str, str] | None = None, has_length: bool = True
) -> dict[str, Any]:
  """Checks the arguments of a run.

  Args:
    words: `CONFIG [CONFIG ...] [key=value ...]`. Words that begin with a hyphen are not ours and are passed over.
    environment: variables that the run will see, this process's if None.
    has_length: False where the length of the run is given in another way than by the key `steps`.

  Returns:
    The keys that the run sets itself, with their values.

  Raises:
    ConfigError: naming the file, key or variable at fault.
  """
  variables = os.environ if environment is None else environment
  configs, overrides = split_words(words)
  for config in configs:
    if not os.path.exists(config) and not is_stock(config):
      raise ConfigError(f"{_shown(config)}: no such config file{_hint_for_word(config)}")
  _check_overrides(overrides)
  for path, content in read_local_files(configs).items():
    refuse_unknown_keys(content, f"{path}: ")
  check_variables(variables, overrides)
  values = given_values(configs, overrides, variables)
  check_values(values, has_length)
  return values


def require_model(words: Sequence[str]) -> None:
  """Raises ConfigError if nothing says which model is meant. MaxText would take its default, a model of 1.1B weights."""
  configs, overrides = split_words(words)
  if not configs and not any(override.startswith(("model_name=", "base_")) for override in overrides):
    raise ConfigError(f"CONFIG: is missing, give a config file or model_name=NAME; {STOCK} is MaxText's default model")


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
  """Splits arguments into config files and `key=value` texts.

  MaxText's other entry points take options such as `--format hf` too. Those words are in neither list.
  """
  configs: list[str] = []
  overrides: list[str] = []
  for before, word in zip(["", *words], words):
    is_value = before.startswith("-") and "=" not in before
    if not word.startswith("-") and not is_value:
      (overrides if "=" in word else configs).append(word)
  return configs, overrides


def parse_value(text: str) -> Any:
  """Reads the value of `key=text`, which is YAML.

  Raises:
    ConfigError: `text` is not YAML.
  """
  try:
    return parse_yaml(text)
  except ValueError:
    raise ConfigError(
      f"{_shown(text)}: is not a value that MaxText can read, which is YAML; quote it once more"
    ) from None


def refuse_unknown_keys(keys: Mapping[str, Any], prefix: str = "") -> None:
  """Raises ConfigError for the first key that neither MaxText nor the plugin has. `prefix` begins the message."""
  known = known_keys()
  for key, value in keys.items():
    # `lora.rank` is the key `rank` of the mapping `lora`, which MaxText checks itself.
    name = re.split(r"[.\[]", key)[0]
    if known is None:
      hint = "" if name in KEYS else did_you_mean(name, KEYS, _ALMOST_SURELY)
    else:
      # Someone who writes `sparsty` means our key, although MaxText has 1,000 others.
      small = name.lower()
      hint = "" if name in known else did_you_mean(small, KEYS, 0.75) or did_you_mean(small, sorted(known))
    if hint or (known is not None and name not in known):
      raise ConfigError(f"{prefix}{_shown(f'{key}={value}')}: MaxText has no such key{hint}")


def check_variables(environment: Mapping[str, str], overrides: Sequence[str] = ()) -> None:
  """Checks the `M_*` variables, which MaxText reads as keys.

  Raises:
    ConfigError: a variable is almost the name of a key, so MaxText would ignore it, or `overrides` has its key too.
  """
  given = {override.partition("=")[0]: override for override in overrides}
  names = known_keys() or frozenset(KEYS)
  for variable in sorted(environment):
    if not variable.upper().startswith(_PREFIX):
      continue
    key = variable[len(_PREFIX) :].lower()
    if key in names and variable.isupper():
      if key in given:
        raise ConfigError(
          f"{_shown(f'{variable}={environment[variable]}')}: {_shown(given[key])} is on the command line too, keep one"
        )
    elif near := nearest(key, KEYS, 0.75) or nearest(key, names, _ALMOST_SURELY):
      raise ConfigError(f"{_shown(variable)}: MaxText ignores this variable, did you mean {_PREFIX}{near.upper()}?")


@functools.cache
def known_keys() -> frozenset[str] | None:
  """Returns the keys of the MaxText that would be imported, and ours. None if MaxText is not installed.

  The names are read from the text of MaxText's base.yml and of its config classes (two spaces, a name, a colon), because
  importing them would import jax, which takes seconds.
  """
  folder = maxtext_folder("configs")
  if folder is None:
    return None
  names = set(KEYS)
  for file_name, pattern in (("base.yml", r"^(\w+)\s*:"), ("types.py", r"^  (\w+)\s*:")):
    path = os.path.join(folder, file_name)
    if not os.path.isfile(path):
      return None
    with open(path, encoding="utf-8") as file:
      names.update(re.findall(pattern, file.read(), re.MULTILINE))
  return frozenset(names)


def _check_overrides(overrides: Sequence[str]) -> None:
  given: dict[str, str] = {}
  for override in overrides:
    key, _, text = override.partition("=")
    if not _KEY.fullmatch(key):
      raise ConfigError(f"{_shown(override)}: must be key=value, with a key of MaxText")
    if key in given:
      raise ConfigError(f"{_shown(override)}: {_shown(given[key])} is given too, keep one")
    given[key] = override
    try:
      parse_value(text)
    except ConfigError as error:
      raise ConfigError(f"{key}={error}") from None
  refuse_unknown_keys({key: override.partition("=")[2] for key, override in given.items()})


def _shown(text: str) -> str:
  """Quotes a text in which a message would break, and cuts a long one."""
  short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
  return short if short.isprintable() and short else repr(short)


def _hint_for_word(word: str) -> str:
  """A word that is no file may be a key whose `=` was forgotten, an option as an editor spells it, or far away."""
  key, _, value = word.partition(":")
  if key in (known_keys() or KEYS):
    return f"; to set this key, write {key}={value or 'VALUE'}"
  if word[:1] in _LONG_DASHES:
    return f"; it begins with a long dash, write --{word.lstrip(_LONG_DASHES)}"
  if "://" in word:
    return "; a config file must be on this machine, copy it here"
  return near_file(word)
