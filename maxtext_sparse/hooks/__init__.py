"""Everything that changes MaxText. Read `table` first: it lists every attribute that is replaced, and why.

plugin        which table fits the installed MaxText; install and uninstall
registry      what a hook is; replaces attributes and restores them
settings      the sparsity keys and the schedule of a config
sparse_run    the run that belongs to a config, and the train step that is being traced
monitor       counts, metrics and records of a run, and the checks that stop it
*_hooks       the replacements, by the part of MaxText that they go into
"""

from maxtext_sparse.hooks.plugin import (
  CHECKOUT,
  fitting_hooks,
  install,
  install_for_preflight,
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
  "fitting_hooks",
  "install",
  "install_for_preflight",
  "installed",
  "maxtext_version",
  "uninstall",
]
