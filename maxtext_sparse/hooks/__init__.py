"""Everything that changes MaxText. `table` lists every attribute that is replaced; `plugin` installs and removes them."""

from maxtext_sparse.hooks.plugin import (
  CHECKOUT,
  hooks_for,
  install,
  installed,
  maxtext_version,
  OVERRIDE,
  SUPPORTED_VERSIONS,
  uninstall,
)

__all__ = [
  "CHECKOUT",
  "OVERRIDE",
  "SUPPORTED_VERSIONS",
  "hooks_for",
  "install",
  "installed",
  "maxtext_version",
  "uninstall",
]
