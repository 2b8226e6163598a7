"""`import maxtext_sparse` is cheap, exports what a researcher uses, and its docstring's example runs."""

import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import maxtext_sparse


def test_the_example_in_the_docstring_prunes_to_the_last_density():
  example = maxtext_sparse.__doc__.partition("mask the gradients:\n\n")[2].partition("\n\nImporting this")[0]
  names = {}
  exec(textwrap.dedent(example), names)
  live = [int(np.count_nonzero(names["params"][layer]["kernel"])) for layer in ("hidden", "out")]
  assert sum(live) == 8  # 20 % of 40
  maxtext_sparse.assert_pruned(names["params"], names["schedule"], 99, names["is_prunable"])


def test_every_exported_name_is_there():
  for name in maxtext_sparse.__all__:
    assert getattr(maxtext_sparse, name) is not None
    assert name in dir(maxtext_sparse)
  with pytest.raises(AttributeError, match="has no attribute 'pruner'"):
    maxtext_sparse.pruner  # noqa: B018


def test_importing_the_package_imports_nothing_else():
  code = (
    "import sys; before = set(sys.modules); import maxtext_sparse\n"
    "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
    "assert not new & {'jax', 'numpy', 'optax', 'pydantic', 'yaml', 'typer', 'maxtext'}, new"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


def test_the_core_needs_jax_and_optax_but_neither_flax_nor_maxtext():
  code = (
    "import sys; from maxtext_sparse import prune, mask_gradients, Schedule\n"
    "assert not {'flax', 'maxtext', 'orbax', 'pandas'} & set(sys.modules), sorted(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True, env=dict(__import__("os").environ, JAX_PLATFORMS="cpu"))


def test_importing_the_core_opens_no_device():
  """Else `jax.distributed.initialize` would fail on every cluster: it must come before the first computation."""
  code = (
    "from maxtext_sparse.pruning import event, transform\n"
    "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
  )
  subprocess.run([sys.executable, "-c", code], check=True, env=dict(__import__("os").environ, JAX_PLATFORMS="cpu"))


def test_filters_may_be_names_or_a_predicate():
  params = {"a": jax.numpy.arange(1.0, 5.0), "b": jax.numpy.arange(5.0, 9.0)}
  schedule = maxtext_sparse.Schedule(5, (1,), (0.5,))
  import optax

  for is_prunable in (["a"], {"a"}, "a", lambda path: path == "a"):
    tx = maxtext_sparse.prune(optax.sgd(0.0), schedule, is_prunable)
    updates, _ = tx.update(params, tx.init(params), params, step=1)
    after = optax.apply_updates(params, updates)
    assert after["a"].tolist() == [0, 0, 3, 4] and after["b"].tolist() == [5, 6, 7, 8]
